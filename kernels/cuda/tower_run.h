// The launches of qin.QuadraticTower, one after the other on one stream. Nothing here waits for the device, allocates or
// depends on what the operands hold, so a run can be captured into a CUDA graph.
#pragma once

#include "tower.cuh"

namespace qin::cuda {

// Which share a launch takes: the largest that still gives most multiprocessors a block. Half a dozen rows are a matter
// of reading the weights, which every multiprocessor must take part in.
enum class Size { kSmall, kMiddle, kLarge };

constexpr size_t kFewRows = 32;

inline Size size_for(const Device& device, size_t num_rows, size_t padded_width) {
  if (num_rows <= kFewRows) return Size::kSmall;
  const size_t num_blocks =
      up(num_rows, LargeShare::kRows * kTileRows) / (LargeShare::kRows * kTileRows) *
      (padded_width / (LargeShare::kColumns * kTileColumns));
  const bool fits = LargeShare::kSharedMemory <= device.shared_memory;
  return fits && num_blocks * 4 >= device.num_processors * size_t{3} ? Size::kLarge : Size::kMiddle;
}

inline unsigned rows_of(Size size) {
  return kTileRows * (size == Size::kLarge    ? LargeShare::kRows
                      : size == Size::kMiddle ? MiddleShare::kRows
                                              : SmallShare::kRows);
}

template <class Number, class Share>
const char* launch_layer(const LayerArguments& a, Stream stream) {
  const Grid grid{a.num_tiles / Share::kColumns,
                  static_cast<unsigned>(up(a.num_rows, Share::kRows * kTileRows) / (Share::kRows * kTileRows)), 1};
  return launch(layer<Number, Share>, grid, Share::kThreads, Share::kSharedMemory, stream, a);
}

template <class Number>
const char* launch_layer(Size size, const LayerArguments& a, Stream stream) {
  if (size == Size::kSmall) return launch_layer<Number, SmallShare>(a, stream);
  if (size == Size::kMiddle) return launch_layer<Number, MiddleShare>(a, stream);
  return launch_layer<Number, LargeShare>(a, stream);
}

template <class Number>
const char* prepare_layers(const Device& device) {
  if (const char* error = allow_shared_memory(layer<Number, SmallShare>, SmallShare::kSharedMemory)) return error;
  if (const char* error = allow_shared_memory(layer<Number, MiddleShare>, MiddleShare::kSharedMemory)) return error;
  if (LargeShare::kSharedMemory > device.shared_memory) return nullptr;
  return allow_shared_memory(layer<Number, LargeShare>, LargeShare::kSharedMemory);
}

// Before the first run on a device: kernels are loaded now, not within a run that is being captured. Null, or what is
// wrong; so below.
inline const char* prepare_layers(const Device& device, Product product) {
  if (const char* error = allow_shared_memory(assemble, 0)) return error;
  if (const char* error = allow_shared_memory(quantise, kQuantiseMemory)) return error;
  if (const char* error = allow_shared_memory(put_out, 0)) return error;
  switch (product) {
    case Product::kFloat32: return prepare_layers<Float32>(device);
    case Product::kTf32: return prepare_layers<Tf32>(device);
    case Product::kBfloat16: return prepare_layers<Bfloat16>(device);
    default: return prepare_layers<Int8>(device);
  }
}

inline const char* launch_layer(Product product, Size size, const LayerArguments& a, Stream stream) {
  switch (product) {
    case Product::kFloat32: return launch_layer<Float32>(size, a, stream);
    case Product::kTf32: return launch_layer<Tf32>(size, a, stream);
    case Product::kBfloat16: return launch_layer<Bfloat16>(size, a, stream);
    default: return launch_layer<Int8>(size, a, stream);
  }
}

// One run of the tower. The addresses of `given`, `packed` and `memory` are the device's.
class TowerRun {
 public:
  TowerRun(const TowerShape& shape, Product product, const Device& device, const char* packed,
           const TowerArguments& given, char* memory, Stream stream)
      : shape_(shape),
        product_(product),
        packed_layout_(shape, product),
        scratch_(shape, product, given.num_rows),
        size_(size_for(device, given.num_rows, packed_layout_.padded)),
        num_row_tiles_(static_cast<unsigned>(up(given.num_rows, rows_of(size_)) / kTileRows)),
        num_tiles_(static_cast<unsigned>(packed_layout_.padded / kTileColumns)),
        packed_(packed),
        given_(given),
        memory_(memory),
        stream_(stream) {}

  const char* run() const {
    if (const char* error = assemble_rows()) return error;
    if (shape_.num_products == 0) return put_out_rows();
    for (size_t product = 0; product < shape_.num_products; ++product) {
      if (product_ == Product::kInt8)
        if (const char* error = quantise_rows(product)) return error;
      if (const char* error = run_layer(product)) return error;
    }
    return nullptr;
  }

 private:
  const float* packed(size_t offset, size_t index = 0) const {
    return reinterpret_cast<const float*>(packed_ + offset) + index;
  }
  template <class Element>
  Element* scratch(size_t offset) const {
    return reinterpret_cast<Element*>(memory_ + offset);
  }
  // What product `product` reads.
  float4* x(size_t product) const { return scratch<float4>(scratch_.x[product % 2]); }
  char* operand(size_t product) const { return scratch<char>(scratch_.operand[product % 2]); }

  const char* assemble_rows() const {
    AssembleArguments a{};
    a.given = given_;
    a.shift = packed(packed_layout_.shift), a.slope = packed(packed_layout_.slope);
    a.x = x(0);
    if (product_ == Product::kBfloat16) a.operand = reinterpret_cast<uint2*>(operand(0));
    a.counters = scratch<unsigned>(scratch_.counters);
    a.num_counters = static_cast<unsigned>(scratch_.padded_rows / kTileRows), a.num_tiles = num_tiles_;
    a.embedding_dim = static_cast<unsigned>(shape_.embedding_dim);
    a.item_width = static_cast<unsigned>(shape_.item_width), a.width = static_cast<unsigned>(shape_.width);
    a.split = shape_.split(), a.pairs = pairs();
    return launch(assemble, {num_tiles_ / (kAssembleWarps * kAssembleTiles), num_row_tiles_, 1}, kAssembleWarps * kLanes,
                  0, stream_, a);
  }

  bool pairs() const {
    const auto bits = [](const float* address) { return reinterpret_cast<uintptr_t>(address); };
    const uintptr_t addresses = bits(given_.target) | bits(given_.pooled) | bits(given_.likes) | bits(given_.views) |
                                bits(given_.partial) | bits(given_.likes_first) | bits(given_.views_first);
    return addresses % sizeof(float2) == 0 && shape_.embedding_dim % 2 == 0 && shape_.item_width % 2 == 0;
  }

  const char* quantise_rows(size_t product) const {
    const QuantiseArguments a{x(product), reinterpret_cast<uint4*>(operand(product)),
                              scratch<float>(scratch_.row_scale), num_tiles_};
    return launch(quantise, {num_row_tiles_, 1, 1}, kQuantiseWarps * kLanes, kQuantiseMemory, stream_, a);
  }

  const char* run_layer(size_t product) const {
    const size_t layer = product + (shape_.split() ? 1 : 0), padded = packed_layout_.padded;
    const bool ends = product + 1 == shape_.num_products;
    LayerArguments a{};
    a.x = x(product), a.next = ends ? nullptr : x(product + 1);
    a.operand = reinterpret_cast<const uint4*>(numbers_per_word(product_) == 1 ? scratch<char>(scratch_.x[product % 2])
                                                                               : operand(product));
    a.next_operand = reinterpret_cast<uint2*>(operand(product + 1));
    a.weight = reinterpret_cast<const uint4*>(packed_ + product * packed_layout_.product_words * sizeof(uint32_t));
    a.bias = packed(packed_layout_.bias, product * padded), a.shift = packed(packed_layout_.shift, layer * padded);
    a.slope = packed(packed_layout_.slope, layer);
    a.weight_scale = packed(packed_layout_.weight_scale, product_ == Product::kInt8 ? product * padded : 0);
    a.row_scale = scratch<float>(scratch_.row_scale);
    a.output_weight = packed(packed_layout_.output_weight), a.output_bias = packed(packed_layout_.output_bias);
    a.partial = scratch<float>(scratch_.partial), a.counters = scratch<unsigned>(scratch_.counters);
    a.scores = given_.scores;
    a.num_rows = given_.num_rows, a.padded_rows = scratch_.padded_rows;
    a.num_tiles = num_tiles_, a.width = static_cast<unsigned>(shape_.width);
    return launch_layer(product_, size_, a, stream_);
  }

  const char* put_out_rows() const {
    const PutOutArguments a{x(0), packed(packed_layout_.output_weight), packed(packed_layout_.output_bias),
                            given_.scores, given_.num_rows, num_tiles_};
    return launch(put_out, {num_row_tiles_, 1, 1}, kLanes, 0, stream_, a);
  }

  const TowerShape& shape_;
  const Product product_;
  const PackedLayout packed_layout_;
  const ScratchLayout scratch_;
  const Size size_;
  const unsigned num_row_tiles_, num_tiles_;
  const char* const packed_;
  const TowerArguments& given_;
  char* const memory_;
  const Stream stream_;
};

}  // namespace qin::cuda
