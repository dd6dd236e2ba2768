// Products of small tiles by one warp, and how their operands lie among its lanes.
//
// Rows go in tiles of 16, columns in tiles of 8. A number's place in a tile of both is that of an accumulator of mma.sync:
// lane 4 g + t has of rows g and g + 8 the columns 2 t and 2 t + 1,
//
//   Quad = {(g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)}
//
// An operand of a product is taken in steps of 8 words of 32 bits, each word 1, 2 or 4 numbers, that is 1, 2 or 4 tiles of
// columns. The order in which a sum meets its inputs is free, so word and part are given to columns such that a lane's
// words are made of the very numbers that it holds: what a product leaves in a lane's registers is, rounded, its operand
// in the next product. No layer transposes or exchanges anything. The weights are packed in the same order.
#pragma once

#include "device.cuh"

namespace qin::cuda {

constexpr unsigned kLanes = 32, kTileRows = 16, kTileColumns = 8, kStepWords = 8;

#ifdef __CUDACC__
#define QIN_BOTH static __host__ __device__ __forceinline__
#else
#define QIN_BOTH static inline
#endif

// The column, within a step, of part `part` of word `half * 4 + t`.
QIN_BOTH unsigned column_of(unsigned per_word, unsigned t, unsigned half, unsigned part) {
  const unsigned index = half * per_word + part;
  return index / 2 * kTileColumns + 2 * t + index % 2;
}

QIN_DEVICE uint32_t int8_word(float a, float b, float c, float d) {
  const auto byte = [](float number) { return static_cast<uint32_t>(static_cast<int>(number)) & 0xffu; };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}

// A lane's words of one step of a float32 operand are its own numbers in the order of the rows' fragments.
QIN_DEVICE uint4 words_of(const float4& quad) {
  return {as_bits(quad.x), as_bits(quad.z), as_bits(quad.y), as_bits(quad.w)};
}

// Kinds of product. `multiply` adds one step for one tile; `dot` is the same for one pair of words.

// float32 in three products of TF32: each operand is a rounded number and what the rounding left, 22 bits together. The
// sum of a step begins at zero, for tensor cores cut off what they add to, and is added in float32.
struct Float32 {
  using Sum = float;
  static constexpr unsigned kPerWord = 1;
  struct Rows {
    uint4 high, low;
  };
  struct Columns {
    uint2 high, low;
  };

  // The high part with less ado than `rounded_to_tf32`: where a NaN's bits run over, the low part is NaN still.
  QIN_DEVICE void split(uint32_t word, uint32_t& high, uint32_t& low) {
    high = (word + 0x1000u) & 0xffffe000u;
    low = rounded_to_tf32(as_float(word) - as_float(high));
  }
  QIN_DEVICE Rows rows(const uint4& words) {
    Rows rows;
    split(words.x, rows.high.x, rows.low.x), split(words.y, rows.high.y, rows.low.y);
    split(words.z, rows.high.z, rows.low.z), split(words.w, rows.high.w, rows.low.w);
    return rows;
  }
  QIN_DEVICE Columns columns(const uint2& words) {
    Columns columns;
    split(words.x, columns.high.x, columns.low.x), split(words.y, columns.high.y, columns.low.y);
    return columns;
  }
  QIN_DEVICE void multiply(Sum (&sums)[4], const Rows& rows, const Columns& columns) {
    float step[4] = {};
    mma_tf32(step, rows.low, columns.high);
    mma_tf32(step, rows.high, columns.low);
    mma_tf32(step, rows.high, columns.high);
    for (int i = 0; i < 4; ++i) sums[i] += step[i];
  }
  QIN_DEVICE Sum dot(uint32_t row, uint32_t column, Sum sum) { return fmaf(as_float(row), as_float(column), sum); }
};

// The same operands, rounded to TF32: a third of the work, a thousandth of the accuracy.
struct Tf32 {
  using Sum = float;
  static constexpr unsigned kPerWord = 1;
  using Rows = uint4;
  using Columns = uint2;

  QIN_DEVICE Rows rows(const uint4& words) {
    return {rounded_to_tf32(as_float(words.x)), rounded_to_tf32(as_float(words.y)),
            rounded_to_tf32(as_float(words.z)), rounded_to_tf32(as_float(words.w))};
  }
  QIN_DEVICE Columns columns(const uint2& words) {
    return {rounded_to_tf32(as_float(words.x)), rounded_to_tf32(as_float(words.y))};
  }
  QIN_DEVICE void multiply(Sum (&sums)[4], const Rows& rows, const Columns& columns) {
    mma_tf32(sums, rows, columns);
  }
  QIN_DEVICE Sum dot(uint32_t row, uint32_t column, Sum sum) { return Float32::dot(row, column, sum); }
};

struct Bfloat16 {
  using Sum = float;
  static constexpr unsigned kPerWord = 2;
  using Rows = uint4;
  using Columns = uint2;

  QIN_DEVICE Rows rows(const uint4& words) { return words; }
  QIN_DEVICE Columns columns(const uint2& words) { return words; }
  QIN_DEVICE void multiply(Sum (&sums)[4], const Rows& rows, const Columns& columns) {
    mma_bfloat16(sums, rows, columns);
  }
  QIN_DEVICE Sum dot(uint32_t row, uint32_t column, Sum sum) {
    sum = fmaf(as_float(row << 16), as_float(column << 16), sum);
    return fmaf(as_float(row & 0xffff0000u), as_float(column & 0xffff0000u), sum);
  }
};

struct Int8 {
  using Sum = int;
  static constexpr unsigned kPerWord = 4;
  using Rows = uint4;
  using Columns = uint2;

  QIN_DEVICE Rows rows(const uint4& words) { return words; }
  QIN_DEVICE Columns columns(const uint2& words) { return words; }
  QIN_DEVICE void multiply(Sum (&sums)[4], const Rows& rows, const Columns& columns) {
    mma_int8(sums, rows, columns);
  }
  QIN_DEVICE Sum dot(uint32_t row, uint32_t column, Sum sum) { return dot4(row, column, sum); }
};

// Without tensor cores: each lane has the words of its rows and columns handed to it, one after the other.
template <class Number, int kRowTiles, int kColumnTiles>
QIN_DEVICE void multiply_by_lanes(typename Number::Sum (&sums)[kRowTiles][kColumnTiles][4],
                                  const uint4 (&rows)[kRowTiles], const uint2 (&columns)[kColumnTiles], unsigned lane) {
  const unsigned g = lane / 4, t = lane % 4;
#pragma unroll
  for (unsigned word = 0; word < 4; ++word)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t upper[kRowTiles], lower[kRowTiles], left[kColumnTiles], right[kColumnTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        upper[m] = shuffle(half ? rows[m].z : rows[m].x, 4 * g + word);
        lower[m] = shuffle(half ? rows[m].w : rows[m].y, 4 * g + word);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const uint32_t own = half ? columns[n].y : columns[n].x;
        left[n] = shuffle(own, 4 * (2 * t) + word), right[n] = shuffle(own, 4 * (2 * t + 1) + word);
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          sums[m][n][0] = Number::dot(upper[m], left[n], sums[m][n][0]);
          sums[m][n][1] = Number::dot(upper[m], right[n], sums[m][n][1]);
          sums[m][n][2] = Number::dot(lower[m], left[n], sums[m][n][2]);
          sums[m][n][3] = Number::dot(lower[m], right[n], sums[m][n][3]);
        }
    }
}

// sums += rows columns, one step, for every pair of tiles.
template <class Number, int kRowTiles, int kColumnTiles>
QIN_DEVICE void multiply(typename Number::Sum (&sums)[kRowTiles][kColumnTiles][4], const uint4 (&rows)[kRowTiles],
                         const uint2 (&columns)[kColumnTiles], unsigned lane) {
  if constexpr (!kTensorCores) {
    multiply_by_lanes<Number>(sums, rows, columns, lane);
  } else {
    typename Number::Columns right[kColumnTiles];
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) right[n] = Number::columns(columns[n]);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const typename Number::Rows left = Number::rows(rows[m]);
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) Number::multiply(sums[m][n], left, right[n]);
    }
  }
}

// The sum over the four lanes that share a row.
QIN_DEVICE float sum_over_row(float number) {
  number += as_float(shuffle_xor(as_bits(number), 1));
  return number + as_float(shuffle_xor(as_bits(number), 2));
}

}  // namespace qin::cuda
