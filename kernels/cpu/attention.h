// qin.SparseTargetAttention: relu(target key^T) value + residual, straight from the tables.
//
// A block of one user's candidates at a time: its weights (a block by H) stay in the first-level cache between the two
// products, so no matrix of scores exists, and no row of a table is copied.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

constexpr size_t kAttentionRows = 2 * 12;
// Below this many multiply-adds one thread is done before another one is awake.
constexpr size_t kWorthThreads = size_t{1} << 22;

constexpr int kScoreCandidates = 4, kScoreHistory = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSumRows = 12;
#elif defined(__AVX2__)
constexpr int kSumRows = 6;
#else
constexpr int kSumRows = 4;
#endif
static_assert(kAttentionRows % kSumRows == 0 && kAttentionRows % kScoreCandidates == 0, "blocks are whole tiles");

inline const float* table_row(const float* table, int64_t row, size_t num_rows, size_t width) {
  return table + static_cast<size_t>(row < 0 ? row + static_cast<int64_t>(num_rows) : row) * width;
}

// What one task keeps: the rows of its user's history, and the weights of its block.
struct AttentionScratch {
  const float** keys;      // (H)
  const float** values;    // (H)
  const float** parts;     // (H)
  float* weights;          // (H, kAttentionRows)

  static size_t size(size_t history_length) {
    return rounded_up(history_length * (3 * sizeof(const float*) + kAttentionRows * sizeof(float)), qin::kAlignment);
  }
  AttentionScratch(char* memory, size_t history_length)
      : keys(reinterpret_cast<const float**>(memory)),
        values(keys + history_length),
        parts(values + history_length),
        weights(reinterpret_cast<float*>(parts + history_length)) {}
};

// The scores of kCandidates by kHistory pairs; each pair's sum is the same whatever tile it is in.
template <int kCandidates, int kHistory>
inline void score_tile(const float* const* candidates, const float* const* keys, size_t width, float* weights) {
  Floats sums[kCandidates][kHistory] = {};
  size_t column = 0;
  const auto step = [&](auto load_at) __attribute__((always_inline)) {
    Floats key[kHistory];
#pragma GCC unroll 4
    for (int h = 0; h < kHistory; ++h) key[h] = load_at(keys[h] + column);
#pragma GCC unroll 4
    for (int c = 0; c < kCandidates; ++c) {
      const Floats candidate = load_at(candidates[c] + column);
#pragma GCC unroll 4
      for (int h = 0; h < kHistory; ++h) sums[c][h] = fused_multiply_add(candidate, key[h], sums[c][h]);
    }
  };
  for (; column + kLanes <= width; column += kLanes) step([](const float* from) { return load<Floats>(from); });
  if (column < width) step([left = width - column](const float* from) { return load_first(from, left); });
#pragma GCC unroll 4
  for (int c = 0; c < kCandidates; ++c)
#pragma GCC unroll 4
    for (int h = 0; h < kHistory; ++h) {
      const float score = sum_of(sums[c][h]);
      weights[h * kAttentionRows + c] = score < 0 ? 0 : score;  // NaN stays NaN
    }
}

template <int kCandidates>
inline void score_rows(const float* const* candidates, const float* const* keys, size_t history_length, size_t width,
                       float* weights) {
  size_t h = 0;
  for (; h + kScoreHistory <= history_length; h += kScoreHistory)
    score_tile<kCandidates, kScoreHistory>(candidates, keys + h, width, weights + h * kAttentionRows);
  for (; h < history_length; ++h)
    score_tile<kCandidates, 1>(candidates, keys + h, width, weights + h * kAttentionRows);
}

// output[row] = residual[row] + sum over h of weights[h][row] * values[h], for kVectors vectors of columns.
template <int kRows, int kVectors, class Load, class Store>
inline __attribute__((always_inline)) void sum_tile(const float* weights, const float* const* values,
                                                    size_t history_length, size_t column,
                                                    const float* const* residual, float* const* output, Load load_at,
                                                    Store store_at) {
  Floats sums[kRows][kVectors] = {};
  for (size_t h = 0; h < history_length; ++h) {
    Floats value[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) value[v] = load_at(values[h] + column + v * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const Floats weight = broadcast(weights[h * kAttentionRows + r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fused_multiply_add(weight, value[v], sums[r][v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const size_t at = column + v * kLanes;
      store_at(output[r] + at, sums[r][v] + load_at(residual[r] + at));
    }
}

template <int kRows>
inline void sum_rows(const float* weights, const float* const* values, size_t history_length, size_t width,
                     const float* const* residual, float* const* output) {
  const auto load_all = [](const float* from) { return load<Floats>(from); };
  const auto store_all = [](float* to, Floats vector) { store(to, vector); };
  size_t column = 0;
  for (; column + 2 * kLanes <= width; column += 2 * kLanes)
    sum_tile<kRows, 2>(weights, values, history_length, column, residual, output, load_all, store_all);
  if (column + kLanes <= width) {
    sum_tile<kRows, 1>(weights, values, history_length, column, residual, output, load_all, store_all);
    column += kLanes;
  }
  if (const size_t left = width - column)
    sum_tile<kRows, 1>(
        weights, values, history_length, column, residual, output,
        [left](const float* from) { return load_first(from, left); },
        [left](float* to, Floats vector) { store_first(to, vector, left); });
}

template <int kRows>
struct Rows {
  static constexpr int value = kRows;
};

// Fills output (num_rows, width), the largest tiles first.
inline void sum_block(const AttentionScratch& scratch, const float* const* values, size_t history_length, size_t width,
                      const float* const* residual, float* output, size_t num_rows) {
  float* outputs[kAttentionRows];
  for (size_t r = 0; r < num_rows; ++r) outputs[r] = output + r * width;
  size_t row = 0;
  const auto tiles = [&](auto rows) __attribute__((always_inline)) {
    for (; row + rows.value <= num_rows; row += rows.value)
      sum_rows<rows.value>(scratch.weights + row, values, history_length, width, residual + row, outputs + row);
  };
  tiles(Rows<kSumRows>{}), tiles(Rows<4>{}), tiles(Rows<2>{}), tiles(Rows<1>{});
}

inline size_t attention_blocks(const qin::AttentionArguments& a) {
  return quotient_up(a.num_candidates, kAttentionRows);
}

inline size_t attention_tasks(const qin::AttentionArguments& a, size_t num_threads) {
  const size_t work = a.num_users * a.num_candidates * a.history_length * (2 * a.item_width + a.input_width);
  return work < kWorthThreads ? 1 : smaller(num_threads, a.num_users * attention_blocks(a));
}

inline void attend(const qin::AttentionArguments& a, size_t user, size_t block, const AttentionScratch& scratch) {
  const size_t first = block * kAttentionRows, num_rows = smaller(kAttentionRows, a.num_candidates - first);
  const size_t position = user * a.num_candidates + first;
  const float* targets[kAttentionRows];
  const float* input_parts[kAttentionRows];
  for (size_t r = 0; r < num_rows; ++r) {
    const int64_t row = a.candidate_rows[position + r];
    targets[r] = table_row(a.target, row, a.num_table_rows, a.item_width);
    if (a.partial) input_parts[r] = table_row(a.input_part, row, a.num_table_rows, a.input_width);
  }
  size_t row = 0;
  for (; row + kScoreCandidates <= num_rows; row += kScoreCandidates)
    score_rows<kScoreCandidates>(targets + row, scratch.keys, a.history_length, a.item_width, scratch.weights + row);
  for (; row < num_rows; ++row)
    score_rows<1>(targets + row, scratch.keys, a.history_length, a.item_width, scratch.weights + row);
  sum_block(scratch, scratch.values, a.history_length, a.item_width, targets, a.pooled + position * a.item_width,
            num_rows);
  if (a.partial)
    sum_block(scratch, scratch.parts, a.history_length, a.input_width, input_parts,
              a.partial + position * a.input_width, num_rows);
}

inline void look_up_history(const qin::AttentionArguments& a, size_t user, const AttentionScratch& scratch) {
  for (size_t h = 0; h < a.history_length; ++h) {
    const int64_t row = a.history_rows[user * a.history_length + h];
    scratch.keys[h] = table_row(a.key, row, a.num_table_rows, a.item_width);
    scratch.values[h] = table_row(a.value, row, a.num_table_rows, a.item_width);
    if (a.partial) scratch.parts[h] = table_row(a.history_part, row, a.num_table_rows, a.input_width);
  }
}

struct AttentionRun {
  const qin::AttentionArguments& arguments;
  char* scratch;
  size_t next_unit;

  static void work(void* data, size_t task) {
    AttentionRun& run = *static_cast<AttentionRun*>(data);
    const qin::AttentionArguments& a = run.arguments;
    const size_t num_blocks = attention_blocks(a), num_units = a.num_users * num_blocks;
    const AttentionScratch scratch(run.scratch + task * AttentionScratch::size(a.history_length), a.history_length);
    size_t known_user = a.num_users;
    for (;;) {
      const size_t unit = __atomic_fetch_add(&run.next_unit, 1, __ATOMIC_RELAXED);
      if (unit >= num_units) return;
      const size_t user = unit / num_blocks;
      if (user != known_user) look_up_history(a, known_user = user, scratch);
      attend(a, user, unit % num_blocks, scratch);
    }
  }
};

size_t attention_scratch(const qin::AttentionArguments& a, size_t num_threads) {
  return attention_tasks(a, num_threads) * AttentionScratch::size(a.history_length);
}

void attention(const qin::AttentionArguments& a, const qin::Threads& threads, char* scratch) {
  AttentionRun run{a, scratch, 0};
  const size_t num_tasks = attention_tasks(a, threads.count);
  if (num_tasks <= 1)
    AttentionRun::work(&run, 0);
  else
    threads.run(threads.context, AttentionRun::work, &run, num_tasks);
}

}  // namespace
