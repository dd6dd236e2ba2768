// The launch of qin.SparseTargetAttention. Nothing here waits for the device or depends on what the operands hold.
#pragma once

#include "attention.cuh"

namespace qin::cuda {

template <class Share>
Grid attention_grid(const AttentionLaunch& a) {
  constexpr size_t kRows = Share::kRows * kTileRows;
  return {(a.num_tiles + Share::kSliceTiles - 1) / Share::kSliceTiles,
          static_cast<unsigned>((a.given.num_candidates + kRows - 1) / kRows), static_cast<unsigned>(a.given.num_users)};
}

// Before the first run on a device. Null, or what is wrong; so below.
inline const char* prepare_attention_kernels() {
  if (const char* error = allow_shared_memory(attention<NarrowAttention>, NarrowAttention::kSharedMemory)) return error;
  return allow_shared_memory(attention<WideAttention>, WideAttention::kSharedMemory);
}

inline const char* run_attention(const AttentionArguments& given, const Device& device, Stream stream) {
  const auto tiles = [](size_t width) { return static_cast<unsigned>((width + kTileColumns - 1) / kTileColumns); };
  const auto bits = [](const float* address) { return reinterpret_cast<uintptr_t>(address); };
  AttentionLaunch a{};
  a.given = given;
  a.pooled_tiles = tiles(given.item_width);
  a.num_tiles = a.pooled_tiles + (given.partial ? tiles(given.input_width) : 0);
  const uintptr_t addresses = bits(given.target) | bits(given.key) | bits(given.value) | bits(given.input_part) |
                              bits(given.history_part) | bits(given.pooled) | bits(given.partial);
  a.pairs = addresses % sizeof(float2) == 0 && given.item_width % 2 == 0 && given.input_width % 2 == 0;
  const Grid narrow = attention_grid<NarrowAttention>(a), wide = attention_grid<WideAttention>(a);
  // More blocks than the device runs at once only compute scores again.
  if (static_cast<size_t>(narrow.x) * narrow.y * narrow.z <= 2 * size_t{device.num_processors})
    return launch(attention<NarrowAttention>, narrow, NarrowAttention::kThreads, NarrowAttention::kSharedMemory, stream,
                  a);
  return launch(attention<WideAttention>, wide, WideAttention::kThreads, WideAttention::kSharedMemory, stream, a);
}

}  // namespace qin::cuda
