// Where the tower's numbers lie: packed weights and a run's scratch. See fragments.cuh for the order within a tile.
#pragma once

#include "fragments.cuh"
#include "kernels.h"

namespace qin::cuda {

// Widths are padded with zeros to whole steps, by eights, of every precision.
constexpr size_t kPadding = 256;
// A block takes at most so many tiles of rows.
constexpr size_t kMostRowTiles = 4;
// Scratch and packed weights start at multiples of this.
constexpr size_t kBoundary = 256;

inline size_t up(size_t number, size_t step) { return (number + step - 1) / step * step; }

inline unsigned numbers_per_word(Product product) {
  return product == Product::kInt8 ? 4 : product == Product::kBfloat16 ? 2 : 1;
}

// Packed operands as offsets in bytes; all but the weights are float32 of the padded width.
struct PackedLayout {
  size_t padded;                                                                    // X, padded
  size_t product_words;                                                             // of one product's weights
  size_t bias, shift, weight_scale, output_weight, slope, output_bias, size;        // weights begin at 0

  PackedLayout(const TowerShape& shape, Product product) : padded(up(shape.width, kPadding)) {
    product_words = padded * padded / numbers_per_word(product);
    size_t end = shape.num_products * product_words * sizeof(uint32_t);
    const auto take = [&end](size_t count) {
      const size_t begin = end;
      end = up(end + count * sizeof(float), kBoundary);
      return begin;
    };
    bias = take(shape.num_products * padded), shift = take(shape.num_layers * padded);
    weight_scale = take(product == Product::kInt8 ? shape.num_products * padded : 0);
    output_weight = take(padded), slope = take(shape.num_layers), output_bias = take(1);
    size = end;
  }
};

template <class Element>
void pack_weight(const Element* from, size_t width, size_t padded, uint32_t* to) {
  constexpr unsigned kPerWord = sizeof(uint32_t) / sizeof(Element);
  Element* out = reinterpret_cast<Element*>(to);
  // [tile of columns][pair of steps][lane][step][half][part]: 16 bytes of a lane are its words of two steps.
  for (size_t tile = 0; tile < padded / kTileColumns; ++tile)
    for (size_t pair = 0; pair < padded / (2 * kStepWords * kPerWord); ++pair)
      for (unsigned lane = 0; lane < kLanes; ++lane)
        for (size_t step = 2 * pair; step < 2 * pair + 2; ++step)
          for (unsigned half = 0; half < 2; ++half)
            for (unsigned part = 0; part < kPerWord; ++part) {
              const size_t column = tile * kTileColumns + lane / 4;
              const size_t input = step * kStepWords * kPerWord + column_of(kPerWord, lane % 4, half, part);
              *out++ = input < width && column < width ? from[input * width + column] : Element{0};
            }
}

inline void pack_lines(const float* from, size_t num_lines, size_t width, size_t padded, float* to) {
  for (size_t line = 0; line < num_lines; ++line)
    for (size_t column = 0; column < padded; ++column)
      *to++ = column < width ? from[line * width + column] : 0;
}

// Weights in memory of the host to memory of the host.
inline void pack(const TowerShape& shape, Product product, const TowerWeights& weights, char* packed) {
  const PackedLayout layout(shape, product);
  const auto at = [packed](size_t offset) { return reinterpret_cast<float*>(packed + offset); };
  const size_t square = shape.width * shape.width;
  for (size_t i = 0; i < shape.num_products; ++i) {
    uint32_t* to = reinterpret_cast<uint32_t*>(packed) + i * layout.product_words;
    if (product == Product::kInt8)
      pack_weight(static_cast<const uint8_t*>(weights.weight) + i * square, shape.width, layout.padded, to);
    else if (product == Product::kBfloat16)
      pack_weight(static_cast<const uint16_t*>(weights.weight) + i * square, shape.width, layout.padded, to);
    else
      pack_weight(static_cast<const uint32_t*>(weights.weight) + i * square, shape.width, layout.padded, to);
  }
  pack_lines(weights.bias, shape.num_products, shape.width, layout.padded, at(layout.bias));
  pack_lines(weights.shift, shape.num_layers, shape.width, layout.padded, at(layout.shift));
  if (product == Product::kInt8)
    pack_lines(weights.weight_scale, shape.num_products, shape.width, layout.padded, at(layout.weight_scale));
  pack_lines(weights.output_weight, 1, shape.width, layout.padded, at(layout.output_weight));
  pack_lines(weights.slope, shape.num_layers, 1, 1, at(layout.slope));
  pack_lines(weights.output_bias, 1, 1, 1, at(layout.output_bias));
}

// A run's scratch, as offsets in bytes.
struct ScratchLayout {
  size_t padded_rows;
  size_t x[2];         // [tile of rows][tile of columns][lane] quads, read and written in turn
  size_t operand[2];   // [tile of rows][step][lane] words of a lane; float32 multiplies x itself
  size_t row_scale;    // (rows), int8 only
  size_t partial;      // [slice of columns][row]: what the columns of a slice add to a row's logit
  size_t counters;     // [block of rows]: blocks that have put theirs there
  size_t size;

  ScratchLayout(const TowerShape& shape, Product product, size_t num_rows) {
    const size_t padded = up(shape.width, kPadding);
    padded_rows = up(num_rows, kTileRows * kMostRowTiles);
    size_t end = 0;
    const auto take = [&end](size_t bytes) {
      const size_t begin = end;
      end = up(end + bytes, kBoundary);
      return begin;
    };
    const size_t x_size = padded_rows * padded * sizeof(float);
    const size_t operand_size = numbers_per_word(product) == 1 ? 0 : x_size / numbers_per_word(product);
    x[0] = take(x_size), x[1] = take(x_size);
    operand[0] = take(operand_size);
    operand[1] = product == Product::kBfloat16 ? take(operand_size) : operand[0];
    row_scale = take(product == Product::kInt8 ? padded_rows * sizeof(float) : 0);
    partial = take(padded / kTileColumns * padded_rows * sizeof(float));
    counters = take(padded_rows / kTileRows * sizeof(unsigned));
    size = end;
  }
};

}  // namespace qin::cuda
