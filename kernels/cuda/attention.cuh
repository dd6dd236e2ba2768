// qin.SparseTargetAttention in one launch: relu(target key^T) value + residual, straight from the tables.
//
// A block takes tiles of 16 of one user's candidates and a slice of the columns of both outputs. Its warps first share the
// scores of 64 history items, one tile of 8 each; what that leaves in a warp's registers is the operand of the second
// product (see fragments.cuh), handed to the others through shared memory. No matrix of scores exists. Scores are computed
// anew in every slice: they are a sixth of the work, and slices are what keeps a GPU busy with few candidates.
// All products are float32's.
#pragma once

#include "fragments.cuh"
#include "kernels.h"

namespace qin::cuda {

constexpr int kAttentionWarps = 8;
constexpr unsigned kItemsAtOnce = kAttentionWarps * kTileColumns;
// Columns of `target` that are in shared memory at once, in steps of 8.
constexpr int kTargetSteps = 16;

// Tiles of rows of a block, and tiles of columns of each of its warps.
template <int kRows_, int kColumns_>
struct AttentionShare {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kThreads = kAttentionWarps * static_cast<int>(kLanes);
  static constexpr unsigned kSliceTiles = kAttentionWarps * kColumns;
  static constexpr size_t kSharedMemory =
      (kRows * (kTargetSteps + kAttentionWarps) * kLanes) * sizeof(uint4) + kItemsAtOnce * sizeof(int64_t);
};

using WideAttention = AttentionShare<2, 4>;     // 32 candidates by 256 columns
using NarrowAttention = AttentionShare<1, 1>;   // 16 candidates by 64 columns

struct AttentionLaunch {
  AttentionArguments given;
  unsigned pooled_tiles, num_tiles;   // tiles of columns of `pooled`, and of both outputs
  bool pairs;                         // every width is even
};

// Places in a table that are none: behind the end of a history or a candidate list, and those that no table has.
constexpr int64_t kNothing = -1, kUnknown = -2;

QIN_DEVICE int64_t place_of(const int64_t* rows, size_t index, size_t count, size_t num_table_rows) {
  if (index >= count) return kNothing;
  const int64_t row = rows[index], end = static_cast<int64_t>(num_table_rows), place = row < 0 ? row + end : row;
  return place >= 0 && place < end ? place : kUnknown;
}

QIN_DEVICE float number_at(const float* table, int64_t place, size_t width, unsigned column) {
  if (place == kNothing || column >= width) return 0;
  return place == kUnknown ? as_float(0x7fc00000u) : table[static_cast<size_t>(place) * width + column];
}

QIN_DEVICE float2 pair_at(const float* table, int64_t place, size_t width, unsigned column, bool pairs) {
  if (pairs && place >= 0 && column < width)
    return *reinterpret_cast<const float2*>(table + static_cast<size_t>(place) * width + column);
  return {number_at(table, place, width, column), number_at(table, place, width, column + 1)};
}

// Candidates' columns from step `first` on, as words of the rows' fragments.
template <class Share>
QIN_DEVICE void look_up_targets(const AttentionLaunch& a, uint4* targets, unsigned first_step, size_t first_row,
                                const int64_t* candidate_rows) {
  const AttentionArguments& given = a.given;
  const unsigned lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
#pragma unroll
  for (int m = 0; m < Share::kRows; ++m) {
    const size_t row = first_row + m * kTileRows + lane / 4;
    const int64_t upper = place_of(candidate_rows, row, given.num_candidates, given.num_table_rows);
    const int64_t lower = place_of(candidate_rows, row + 8, given.num_candidates, given.num_table_rows);
#pragma unroll
    for (unsigned step = warp; step < kTargetSteps; step += kAttentionWarps) {
      const unsigned column = (first_step + step) * kTileColumns + 2 * (lane % 4);
      const float2 above = pair_at(given.target, upper, given.item_width, column, a.pairs);
      const float2 below = pair_at(given.target, lower, given.item_width, column, a.pairs);
      targets[(m * kTargetSteps + step) * kLanes + lane] = words_of({above.x, above.y, below.x, below.y});
    }
  }
}

// Every warp's scores of its tile of history items.
template <class Share>
QIN_DEVICE void score_items(const AttentionLaunch& a, uint4* targets, int64_t item, size_t first_row,
                            const int64_t* candidate_rows, float (&scores)[Share::kRows][1][4]) {
  const AttentionArguments& given = a.given;
  const unsigned lane = threadIdx.x % kLanes;
  const unsigned num_steps = static_cast<unsigned>((given.item_width + kTileColumns - 1) / kTileColumns);
  for (unsigned first_step = 0; first_step < num_steps; first_step += kTargetSteps) {
    __syncthreads();
    look_up_targets<Share>(a, targets, first_step, first_row, candidate_rows);
    __syncthreads();
    float2 keys[kTargetSteps];
#pragma unroll
    for (unsigned step = 0; step < kTargetSteps; ++step)
      keys[step] = pair_at(given.key, item, given.item_width, (first_step + step) * kTileColumns + 2 * (lane % 4),
                           a.pairs);
#pragma unroll
    for (unsigned step = 0; step < kTargetSteps; ++step) {
      uint4 rows[Share::kRows];
#pragma unroll
      for (int m = 0; m < Share::kRows; ++m) rows[m] = targets[(m * kTargetSteps + step) * kLanes + lane];
      const uint2 columns[1] = {{as_bits(keys[step].x), as_bits(keys[step].y)}};
      multiply<Float32>(scores, rows, columns, lane);
    }
  }
}

// One of the outputs, and what it is made of.
struct AttentionOutput {
  const float *values, *residual;
  float* to;
  size_t width;
  unsigned first_tile;

  QIN_DEVICE AttentionOutput of(const AttentionLaunch& a, unsigned tile) {
    const AttentionArguments& given = a.given;
    if (tile < a.pooled_tiles) return {given.value, given.target, given.pooled, given.item_width, 0};
    return {given.history_part, given.input_part, given.partial, given.input_width, a.pooled_tiles};
  }
};

template <class Share>
QIN_DEVICE void sum_values(const AttentionLaunch& a, const uint4* weights, const int64_t* items, unsigned first_tile,
                           unsigned lane, float (&sums)[Share::kRows][Share::kColumns][4]) {
#pragma unroll 2
  for (unsigned step = 0; step < kAttentionWarps; ++step) {
    const int64_t first = items[step * kTileColumns + 2 * (lane % 4)];
    const int64_t second = items[step * kTileColumns + 2 * (lane % 4) + 1];
    uint4 rows[Share::kRows];
    uint2 columns[Share::kColumns];
#pragma unroll
    for (int n = 0; n < Share::kColumns; ++n) {
      columns[n] = {0, 0};
      if (first_tile + n >= a.num_tiles) continue;
      const AttentionOutput output = AttentionOutput::of(a, first_tile + n);
      const unsigned column = (first_tile + n - output.first_tile) * kTileColumns + lane / 4;
      columns[n] = {as_bits(number_at(output.values, first, output.width, column)),
                    as_bits(number_at(output.values, second, output.width, column))};
    }
#pragma unroll
    for (int m = 0; m < Share::kRows; ++m) rows[m] = weights[(m * kAttentionWarps + step) * kLanes + lane];
    multiply<Float32>(sums, rows, columns, lane);
  }
}

QIN_DEVICE void store_pair(const AttentionLaunch& a, const AttentionOutput& output, size_t row, size_t position,
                           int64_t place, unsigned column, float left, float right) {
  if (row >= a.given.num_candidates || column >= output.width) return;
  const float2 own = pair_at(output.residual, place, output.width, column, a.pairs);
  float* to = output.to + position * output.width + column;
  if (a.pairs) {
    *reinterpret_cast<float2*>(to) = {left + own.x, right + own.y};
    return;
  }
  to[0] = left + own.x;
  if (column + 1 < output.width) to[1] = right + own.y;
}

template <class Share>
QIN_KERNEL(Share::kThreads, 1) attention(const AttentionLaunch a) {
  const AttentionArguments& given = a.given;
  const unsigned lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  uint4* targets = shared_memory();
  uint4* weights = targets + Share::kRows * kTargetSteps * kLanes;
  int64_t* items = reinterpret_cast<int64_t*>(weights + Share::kRows * kAttentionWarps * kLanes);
  const size_t user = blockIdx.z, first_row = static_cast<size_t>(blockIdx.y) * Share::kRows * kTileRows;
  const int64_t* candidate_rows = given.candidate_rows + user * given.num_candidates;
  const int64_t* history_rows = given.history_rows + user * given.history_length;
  const unsigned first_tile = blockIdx.x * Share::kSliceTiles + warp * Share::kColumns;
  float sums[Share::kRows][Share::kColumns][4] = {};

  for (size_t first_item = 0; first_item < given.history_length; first_item += kItemsAtOnce) {
    __syncthreads();
    if (threadIdx.x < kItemsAtOnce)
      items[threadIdx.x] =
          place_of(history_rows, first_item + threadIdx.x, given.history_length, given.num_table_rows);
    __syncthreads();
    float scores[Share::kRows][1][4] = {};
    score_items<Share>(a, targets, items[warp * kTileColumns + lane / 4], first_row, candidate_rows, scores);
    const auto relu = [](float score) { return score < 0 ? 0 : score; };  // NaN stays NaN
#pragma unroll
    for (int m = 0; m < Share::kRows; ++m)
      weights[(m * kAttentionWarps + warp) * kLanes + lane] = words_of(
          {relu(scores[m][0][0]), relu(scores[m][0][1]), relu(scores[m][0][2]), relu(scores[m][0][3])});
    __syncthreads();
    sum_values<Share>(a, weights, items, first_tile, lane, sums);
  }

#pragma unroll
  for (int m = 0; m < Share::kRows; ++m) {
    const size_t row = first_row + m * kTileRows + lane / 4, position = user * given.num_candidates + row;
    const int64_t upper = place_of(candidate_rows, row, given.num_candidates, given.num_table_rows);
    const int64_t lower = place_of(candidate_rows, row + 8, given.num_candidates, given.num_table_rows);
#pragma unroll
    for (int n = 0; n < Share::kColumns; ++n) {
      if (first_tile + n >= a.num_tiles) continue;
      const AttentionOutput output = AttentionOutput::of(a, first_tile + n);
      const unsigned column = (first_tile + n - output.first_tile) * kTileColumns + 2 * (lane % 4);
      store_pair(a, output, row, position, upper, column, sums[m][n][0], sums[m][n][1]);
      store_pair(a, output, row + 8, position + 8, lower, column, sums[m][n][2], sums[m][n][3]);
    }
  }
}

}  // namespace qin::cuda
