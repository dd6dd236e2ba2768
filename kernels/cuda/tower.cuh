// qin.QuadraticTower: one launch that looks the rows up, then one for each product of a layer; the last one's also gives
// the scores.
//
// At the paper's size a block of 64 rows by 128 columns per multiprocessor is one wave of an H100 at N = 1000, so a layer
// fills the chip once; one block for all columns of its rows, which could keep them in shared memory through all layers,
// would leave half of the chip idle and read all weights in each block. Between layers lies the end of a launch, which
// inside a CUDA graph costs about as much as a barrier of the whole grid and needs no blocks that run at once.
#pragma once

#include <math.h>

#include "layout.h"

namespace qin::cuda {

// A share of a layer that one block takes: tiles of rows and of columns, among warps by columns and, within each chunk of
// steps, by steps; and how many chunks are on their way at once.
template <int kRows_, int kColumns_, int kColumnWarps_, int kStepWarps_, int kSteps_, int kStages_>
struct Share {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kColumnWarps = kColumnWarps_, kStepWarps = kStepWarps_;
  static constexpr int kSteps = kSteps_, kStages = kStages_;
  static constexpr int kWarpColumns = kColumns / kColumnWarps, kWarpSteps = kSteps / kStepWarps;
  static constexpr int kThreads = kColumnWarps * kStepWarps * static_cast<int>(kLanes);
  // In units of 16 bytes.
  static constexpr int kStageRows = kRows * kSteps * static_cast<int>(kLanes);
  static constexpr int kStageColumns = kColumns * (kSteps / 2) * static_cast<int>(kLanes);
  static constexpr int kStage = kStageRows + kStageColumns;
  static constexpr int kAddends = (kStepWarps - 1) * kColumnWarps * kRows * kWarpColumns * static_cast<int>(kLanes);
  static constexpr size_t kSharedMemory = static_cast<size_t>(kStages) * kStage * 16;
  static_assert(kColumns % kColumnWarps == 0 && kSteps % (2 * kStepWarps) == 0, "warps take whole tiles and pairs");
  static_assert(kPadding / kTileColumns % kColumns == 0 && kPadding / 32 % kSteps == 0, "padding is whole shares");
  static_assert(kMostRowTiles % kRows == 0 && kAddends <= kStages * kStage, "rows are padded for every share");
};

using LargeShare = Share<4, 16, 4, 2, 4, 3>;    // 64 rows by 128 columns, 256 threads, 72 KiB
using MiddleShare = Share<2, 8, 2, 2, 4, 4>;    // 32 rows by 64 columns, 128 threads, 48 KiB
using SmallShare = Share<1, 1, 1, 4, 8, 6>;     // 16 rows by 8 columns, 128 threads, 36 KiB

// x + prelu(x * linear + shift)
QIN_DEVICE float quadratic(float x, float linear, float shift, float slope) {
  const float z = fmaf(x, linear, shift);
  return x + (z < 0 ? z * slope : z);
}

struct AssembleArguments {
  TowerArguments given;
  const float *shift, *slope;
  float4* x;
  uint2* operand;           // bfloat16 only
  unsigned* counters;
  unsigned num_counters, num_tiles, embedding_dim, item_width, width;
  bool split, pairs;        // pairs: every width is even, so two neighbours lie in one table
};

constexpr int kAssembleWarps = 4, kAssembleTiles = 4;

// One row of the input, by what it is looked up in.
struct InputRow {
  const float *likes, *views, *target, *pooled, *partial, *likes_first, *views_first;
  bool within, known;       // one of the rows asked for; all its places lie in their tables

  QIN_DEVICE InputRow of(const AssembleArguments& a, size_t row) {
    const TowerArguments& given = a.given;
    InputRow input{};
    input.within = row < given.num_rows;
    if (!input.within) return input;
    const auto place = [](int64_t place, size_t num_rows) {
      return place < 0 ? place + static_cast<int64_t>(num_rows) : place;
    };
    const int64_t item = place(given.candidate_rows[row], given.num_table_rows);
    const int64_t like = place(given.levels[2 * row], given.num_likes);
    const int64_t view = place(given.levels[2 * row + 1], given.num_views);
    const auto lies_in = [](int64_t place, size_t num_rows) {
      return place >= 0 && place < static_cast<int64_t>(num_rows);
    };
    input.known = lies_in(item, given.num_table_rows) && lies_in(like, given.num_likes) &&
                  lies_in(view, given.num_views);
    if (!input.known) return input;
    input.likes = given.likes + like * a.embedding_dim, input.views = given.views + view * a.embedding_dim;
    input.target = given.target + item * a.item_width, input.pooled = given.pooled + row * a.item_width;
    if (a.split) {
      input.partial = given.partial + row * a.width;
      input.likes_first = given.likes_first + like * a.width, input.views_first = given.views_first + view * a.width;
    }
    return input;
  }

  // Where column `column` of x lies.
  QIN_DEVICE const float* address(const InputRow& row, const AssembleArguments& a, unsigned column) {
    const unsigned e = a.embedding_dim, d = a.item_width;
    if (column < e) return row.likes + column;
    if (column < 2 * e) return row.views + (column - e);
    if (column < 2 * e + d) return row.target + (column - 2 * e);
    return row.pooled + (column - 2 * e - d);
  }
};

QIN_DEVICE float2 pair_from(const float* first) { return *reinterpret_cast<const float2*>(first); }

QIN_DEVICE float first_layer(const AssembleArguments& a, const InputRow& row, float x, unsigned column, float slope) {
  const float linear = row.partial[column] + row.likes_first[column] + row.views_first[column];
  return quadratic(x, linear, a.shift[column], slope);
}

// Columns `column` and the next of one row, behind layer 1 where it is split.
QIN_DEVICE float2 input_pair(const AssembleArguments& a, const InputRow& row, unsigned column, float slope) {
  float2 x = {0, 0};
  if (!row.within || column >= a.width) return x;
  if (!row.known) {
    x.x = as_float(0x7fc00000u);
    if (column + 1 < a.width) x.y = x.x;
    return x;
  }
  if (a.pairs) {
    x = pair_from(InputRow::address(row, a, column));
    if (!a.split) return x;
    const float2 partial = pair_from(row.partial + column), shift = pair_from(a.shift + column);
    const float2 likes = pair_from(row.likes_first + column), views = pair_from(row.views_first + column);
    x.x = quadratic(x.x, partial.x + likes.x + views.x, shift.x, slope);
    x.y = quadratic(x.y, partial.y + likes.y + views.y, shift.y, slope);
    return x;
  }
  x.x = *InputRow::address(row, a, column);
  if (a.split) x.x = first_layer(a, row, x.x, column, slope);
  if (column + 1 < a.width) {
    x.y = *InputRow::address(row, a, column + 1);
    if (a.split) x.y = first_layer(a, row, x.y, column + 1, slope);
  }
  return x;
}

// Half of the words of a bfloat16 step: those of one tile of columns.
QIN_DEVICE void store_bfloat16(uint2* operand, unsigned num_tiles, size_t row_tile, unsigned tile, unsigned lane,
                               const float4& quad) {
  const size_t step = row_tile * (num_tiles / 2) + tile / 2;
  operand[(step * kLanes + lane) * 2 + tile % 2] = {bfloat16_pair(quad.x, quad.y), bfloat16_pair(quad.z, quad.w)};
}

// x, one block for 16 rows by 128 columns.
QIN_KERNEL(kAssembleWarps * 32, 8) assemble(const AssembleArguments a) {
  const unsigned lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  if (blockIdx.x == 0 && blockIdx.y == 0)
    for (unsigned i = threadIdx.x; i < a.num_counters; i += kAssembleWarps * kLanes) a.counters[i] = 0;
  const size_t row = static_cast<size_t>(blockIdx.y) * kTileRows + lane / 4;
  const InputRow upper = InputRow::of(a, row), lower = InputRow::of(a, row + 8);
  const float slope = a.slope[0];
  const unsigned first = (blockIdx.x * kAssembleWarps + warp) * kAssembleTiles;
#pragma unroll
  for (unsigned i = 0; i < kAssembleTiles; ++i) {
    const unsigned tile = first + i, column = tile * kTileColumns + 2 * (lane % 4);
    const float2 above = input_pair(a, upper, column, slope), below = input_pair(a, lower, column, slope);
    const float4 quad = {above.x, above.y, below.x, below.y};
    a.x[(static_cast<size_t>(blockIdx.y) * a.num_tiles + tile) * kLanes + lane] = quad;
    if (a.operand) store_bfloat16(a.operand, a.num_tiles, blockIdx.y, tile, lane, quad);
  }
}

struct QuantiseArguments {
  const float4* x;
  uint4* operand;
  float* row_scale;
  unsigned num_tiles;
};

constexpr int kQuantiseWarps = 8;
constexpr size_t kQuantiseMemory = kQuantiseWarps * kTileRows * sizeof(uint32_t);

QIN_DEVICE uint32_t larger(uint32_t a, uint32_t b) { return a < b ? b : a; }

// Symmetric, one scale per row, as the CPU's kernels do it; one block for 16 rows. A row that holds a NaN or an infinity
// has the scale NaN. As whole numbers, the bits of magnitudes are in the order of the magnitudes, NaN above infinity.
QIN_KERNEL(kQuantiseWarps * 32, 1) quantise(const QuantiseArguments a) {
  const unsigned lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const float4* x = a.x + static_cast<size_t>(blockIdx.x) * a.num_tiles * kLanes;
  const auto magnitude_of = [](float number) { return as_bits(number) & 0x7fffffffu; };
  uint32_t of_warp[2] = {0, 0};
  for (unsigned tile = warp; tile < a.num_tiles; tile += kQuantiseWarps) {
    const float4 quad = x[tile * kLanes + lane];
    of_warp[0] = larger(of_warp[0], larger(magnitude_of(quad.x), magnitude_of(quad.y)));
    of_warp[1] = larger(of_warp[1], larger(magnitude_of(quad.z), magnitude_of(quad.w)));
  }
  uint32_t* magnitudes = reinterpret_cast<uint32_t*>(shared_memory());  // [warp][row]
  for (unsigned i = 0; i < 2; ++i) {
    of_warp[i] = larger(of_warp[i], shuffle_xor(of_warp[i], 1));
    of_warp[i] = larger(of_warp[i], shuffle_xor(of_warp[i], 2));
    if (lane % 4 == 0) magnitudes[warp * kTileRows + lane / 4 + 8 * i] = of_warp[i];
  }
  __syncthreads();
  float inverse[2];
  for (unsigned i = 0; i < 2; ++i) {
    const unsigned row = lane / 4 + 8 * i;
    uint32_t bits = 0;
    for (unsigned other = 0; other < kQuantiseWarps; ++other)
      bits = larger(bits, magnitudes[other * kTileRows + row]);
    const bool finite = bits < 0x7f800000u;
    const float magnitude = as_float(bits), exact = 127.0f / magnitude;
    // Zeros alone, and numbers so small that nothing stretches them to 127, count as zeros.
    inverse[i] = finite && magnitude_of(exact) < 0x7f800000u ? exact : 0.0f;
    if (warp == 0 && lane % 4 == 0)
      a.row_scale[blockIdx.x * kTileRows + row] = finite ? magnitude / 127.0f : as_float(0x7fc00000u);
  }
  const auto word = [](float a, float b, float c, float d, float inverse) {
    if (inverse == 0) return 0u;
    return int8_word(rintf(a * inverse), rintf(b * inverse), rintf(c * inverse), rintf(d * inverse));
  };
  const unsigned num_steps = a.num_tiles / Int8::kPerWord;
  for (unsigned step = warp; step < num_steps; step += kQuantiseWarps) {
    float4 quads[4];
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) quads[i] = x[(step * 4 + i) * kLanes + lane];
    a.operand[(static_cast<size_t>(blockIdx.x) * num_steps + step) * kLanes + lane] = {
        word(quads[0].x, quads[0].y, quads[1].x, quads[1].y, inverse[0]),
        word(quads[0].z, quads[0].w, quads[1].z, quads[1].w, inverse[1]),
        word(quads[2].x, quads[2].y, quads[3].x, quads[3].y, inverse[0]),
        word(quads[2].z, quads[2].w, quads[3].z, quads[3].w, inverse[1])};
  }
}

struct LayerArguments {
  const float4* x;
  float4* next;                   // null where the scores follow
  const uint4* operand;           // x itself for float32
  uint2* next_operand;            // bfloat16 only
  const uint4* weight;            // [tile of columns][pair of steps][lane]
  const float *bias, *shift, *slope, *weight_scale, *row_scale, *output_weight, *output_bias;
  float* partial;                 // [slice][row]
  unsigned* counters;
  float* scores;
  size_t num_rows, padded_rows;
  unsigned num_tiles, width;
};

QIN_DEVICE float linear_of(float sum, float, float bias) { return sum + bias; }
QIN_DEVICE float linear_of(int sum, float scale, float bias) { return static_cast<float>(sum) * scale + bias; }

// What one warp makes of its sums: the rows behind this layer, and either their place in memory or their part of the
// logit.
template <class Number, class Share>
QIN_DEVICE void finish_tiles(const LayerArguments& a,
                             const typename Number::Sum (&sums)[Share::kRows][Share::kWarpColumns][4],
                             unsigned first_tile, unsigned slice, unsigned lane) {
  const float slope = *a.slope;
  constexpr bool kScaled = Number::kPerWord == 4;
#pragma unroll
  for (int m = 0; m < Share::kRows; ++m) {
    const size_t row_tile = static_cast<size_t>(blockIdx.y) * Share::kRows + m;
    const size_t row = row_tile * kTileRows + lane / 4;
    const float upper_scale = kScaled ? a.row_scale[row] : 1, lower_scale = kScaled ? a.row_scale[row + 8] : 1;
    float upper = 0, lower = 0;
#pragma unroll
    for (int n = 0; n < Share::kWarpColumns; ++n) {
      const unsigned tile = first_tile + n, column = tile * kTileColumns + 2 * (lane % 4);
      const float2 bias = pair_from(a.bias + column), shift = pair_from(a.shift + column);
      const float2 scale = kScaled ? pair_from(a.weight_scale + column) : float2{1, 1};
      const size_t at = (row_tile * a.num_tiles + tile) * kLanes + lane;
      const float4 x = a.x[at];
      const auto& sum = sums[m][n];
      float4 y = {quadratic(x.x, linear_of(sum[0], upper_scale * scale.x, bias.x), shift.x, slope),
                  quadratic(x.y, linear_of(sum[1], upper_scale * scale.y, bias.y), shift.y, slope),
                  quadratic(x.z, linear_of(sum[2], lower_scale * scale.x, bias.x), shift.x, slope),
                  quadratic(x.w, linear_of(sum[3], lower_scale * scale.y, bias.y), shift.y, slope)};
      // Zero in the columns past X, whatever an infinity nearby made of them.
      if (column >= a.width) y.x = y.z = 0;
      if (column + 1 >= a.width) y.y = y.w = 0;
      if (a.next) {
        a.next[at] = y;
        if constexpr (Number::kPerWord == 2) store_bfloat16(a.next_operand, a.num_tiles, row_tile, tile, lane, y);
      } else {
        const float2 weight = pair_from(a.output_weight + column);
        upper = fmaf(y.x, weight.x, fmaf(y.y, weight.y, upper));
        lower = fmaf(y.z, weight.x, fmaf(y.w, weight.y, lower));
      }
    }
    if (!a.next) {
      upper = sum_over_row(upper), lower = sum_over_row(lower);
      if (lane % 4 == 0) {
        float* partial = a.partial + slice * a.padded_rows + row;
        partial[0] = upper, partial[8] = lower;
      }
    }
  }
}

// The block that comes last of those with the same rows adds up what all of them left, always in the same order.
template <class Share>
QIN_DEVICE void finish_rows(const LayerArguments& a) {
  constexpr unsigned kRows = Share::kRows * kTileRows, kShare = Share::kThreads / kRows;
  static_assert(kShare <= kLanes && (kShare & (kShare - 1)) == 0, "a row's threads are of one warp");
  unsigned* is_last = reinterpret_cast<unsigned*>(shared_memory());
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) *is_last = atomicAdd(a.counters + blockIdx.y, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!*is_last) return;
  __threadfence();
  const size_t row = static_cast<size_t>(blockIdx.y) * kRows + threadIdx.x / kShare;
  const unsigned num_slices = gridDim.x * Share::kColumnWarps;
  float sum = 0;
  for (unsigned slice = threadIdx.x % kShare; slice < num_slices; slice += kShare)
    sum += load_fresh(a.partial + slice * a.padded_rows + row);
#pragma unroll
  for (unsigned mask = 1; mask < kShare; mask *= 2) sum += as_float(shuffle_xor(as_bits(sum), mask));
  if (threadIdx.x % kShare == 0 && row < a.num_rows) a.scores[row] = 1.0f / (1.0f + expf(-(sum + *a.output_bias)));
}

// One chunk of steps, rows and columns, to a stage of shared memory.
template <class Share>
QIN_DEVICE void copy_chunk(const LayerArguments& a, uint4* stage, unsigned chunk, unsigned num_steps) {
  constexpr unsigned kOfTile = Share::kSteps * kLanes, kOfColumns = Share::kSteps / 2 * kLanes;
#pragma unroll
  for (unsigned i = threadIdx.x; i < Share::kStageRows; i += Share::kThreads) {
    const size_t row_tile = static_cast<size_t>(blockIdx.y) * Share::kRows + i / kOfTile;
    copy_async(stage + i, a.operand + (row_tile * num_steps + chunk * Share::kSteps) * kLanes + i % kOfTile);
  }
  stage += Share::kStageRows;
#pragma unroll
  for (unsigned i = threadIdx.x; i < Share::kStageColumns; i += Share::kThreads) {
    const size_t tile = static_cast<size_t>(blockIdx.x) * Share::kColumns + i / kOfColumns;
    copy_async(stage + i,
               a.weight + (tile * (num_steps / 2) + chunk * (Share::kSteps / 2)) * kLanes + i % kOfColumns);
  }
}

template <class Number, class Share>
QIN_DEVICE void multiply_chunk(const uint4* stage, unsigned column_warp, unsigned step_warp, unsigned lane,
                               typename Number::Sum (&sums)[Share::kRows][Share::kWarpColumns][4]) {
#pragma unroll
  for (int pair = 0; pair < Share::kWarpSteps / 2; ++pair) {
    const unsigned first = step_warp * Share::kWarpSteps + 2 * pair;
    uint4 words[Share::kWarpColumns];
#pragma unroll
    for (int n = 0; n < Share::kWarpColumns; ++n)
      words[n] = stage[Share::kStageRows +
                       ((column_warp * Share::kWarpColumns + n) * (Share::kSteps / 2) + first / 2) * kLanes + lane];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint4 rows[Share::kRows];
      uint2 columns[Share::kWarpColumns];
#pragma unroll
      for (int m = 0; m < Share::kRows; ++m) {
        rows[m] = stage[(m * Share::kSteps + first + step) * kLanes + lane];
        // x lies as quads.
        if constexpr (Number::kPerWord == 1) rows[m] = {rows[m].x, rows[m].z, rows[m].y, rows[m].w};
      }
#pragma unroll
      for (int n = 0; n < Share::kWarpColumns; ++n)
        columns[n] = step ? uint2{words[n].z, words[n].w} : uint2{words[n].x, words[n].y};
      multiply<Number>(sums, rows, columns, lane);
    }
  }
}

QIN_DEVICE uint32_t word_of(float number) { return as_bits(number); }
QIN_DEVICE uint32_t word_of(int number) { return static_cast<uint32_t>(number); }
QIN_DEVICE void add_word(float& sum, uint32_t word) { sum += as_float(word); }
QIN_DEVICE void add_word(int& sum, uint32_t word) { sum += static_cast<int>(word); }

// Warps that took other steps of the same tiles hand their sums to the first.
template <class Sum, class Share>
QIN_DEVICE void add_up(Sum (&sums)[Share::kRows][Share::kWarpColumns][4], unsigned column_warp, unsigned step_warp,
                       unsigned lane) {
  uint4* memory = shared_memory();
  const auto at = [&](unsigned step_warp, int m, int n) {
    const unsigned warp = (step_warp - 1) * Share::kColumnWarps + column_warp;
    return ((warp * Share::kRows + m) * Share::kWarpColumns + n) * kLanes + lane;
  };
  __syncthreads();
  if (step_warp > 0)
#pragma unroll
    for (int m = 0; m < Share::kRows; ++m)
#pragma unroll
      for (int n = 0; n < Share::kWarpColumns; ++n)
        memory[at(step_warp, m, n)] = {word_of(sums[m][n][0]), word_of(sums[m][n][1]), word_of(sums[m][n][2]),
                                       word_of(sums[m][n][3])};
  __syncthreads();
  if (step_warp > 0) return;
#pragma unroll
  for (int other = 1; other < Share::kStepWarps; ++other)
#pragma unroll
    for (int m = 0; m < Share::kRows; ++m)
#pragma unroll
      for (int n = 0; n < Share::kWarpColumns; ++n) {
        const uint4 words = memory[at(other, m, n)];
        add_word(sums[m][n][0], words.x), add_word(sums[m][n][1], words.y);
        add_word(sums[m][n][2], words.z), add_word(sums[m][n][3], words.w);
      }
}

template <class Number, class Share>
QIN_KERNEL(Share::kThreads, 1) layer(const LayerArguments a) {
  uint4* memory = shared_memory();
  const unsigned lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const unsigned column_warp = warp % Share::kColumnWarps, step_warp = warp / Share::kColumnWarps;
  const unsigned num_steps = a.num_tiles / Number::kPerWord, num_chunks = num_steps / Share::kSteps;
  typename Number::Sum sums[Share::kRows][Share::kWarpColumns][4] = {};
#pragma unroll
  for (unsigned chunk = 0; chunk < Share::kStages - 1; ++chunk) {
    if (chunk < num_chunks) copy_chunk<Share>(a, memory + chunk * Share::kStage, chunk, num_steps);
    close_group();
  }
  for (unsigned chunk = 0; chunk < num_chunks; ++chunk) {
    wait_for_groups<Share::kStages - 2>();
    __syncthreads();  // the chunk is there for all, and the one before it is used up
    if (const unsigned next = chunk + Share::kStages - 1; next < num_chunks)
      copy_chunk<Share>(a, memory + next % Share::kStages * Share::kStage, next, num_steps);
    close_group();
    multiply_chunk<Number, Share>(memory + chunk % Share::kStages * Share::kStage, column_warp, step_warp, lane, sums);
  }
  add_up<typename Number::Sum, Share>(sums, column_warp, step_warp, lane);
  if (step_warp == 0) {
    const unsigned first_tile = blockIdx.x * Share::kColumns + column_warp * Share::kWarpColumns;
    finish_tiles<Number, Share>(a, sums, first_tile, blockIdx.x * Share::kColumnWarps + column_warp, lane);
  }
  if (!a.next) finish_rows<Share>(a);
}

struct PutOutArguments {
  const float4* x;
  const float *output_weight, *output_bias;
  float* scores;
  size_t num_rows;
  unsigned num_tiles;
};

// The output of towers without a product, one warp for 16 rows.
QIN_KERNEL(32, 1) put_out(const PutOutArguments a) {
  const unsigned lane = threadIdx.x;
  float upper = 0, lower = 0;
  for (unsigned tile = 0; tile < a.num_tiles; ++tile) {
    const float4 y = a.x[(static_cast<size_t>(blockIdx.x) * a.num_tiles + tile) * kLanes + lane];
    const float2 weight = pair_from(a.output_weight + tile * kTileColumns + 2 * (lane % 4));
    upper = fmaf(y.x, weight.x, fmaf(y.y, weight.y, upper));
    lower = fmaf(y.z, weight.x, fmaf(y.w, weight.y, lower));
  }
  const float logits[2] = {sum_over_row(upper), sum_over_row(lower)};
  for (unsigned i = 0; i < 2; ++i) {
    const size_t row = static_cast<size_t>(blockIdx.x) * kTileRows + lane / 4 + 8 * i;
    if (lane % 4 == 0 && row < a.num_rows) a.scores[row] = 1.0f / (1.0f + expf(-(logits[i] + *a.output_bias)));
  }
}

}  // namespace qin::cuda
