// Matrix products of a tile of rows with a panel of columns, in each precision, held in registers from start to end.
//
// All precisions share one shape of loop. An operand is a sequence of 32-bit words: one float32, two bfloat16 or four
// int8 of consecutive inputs. A step multiplies one word of a row, broadcast, with that word of every column of the panel.
//
//   rows      [group of kLanes words][row][kLanes words]   a tile of rows reads forward through memory
//   columns   [panel][word][kPanel columns]                so does a panel of columns
//
// Every output has one accumulator and meets its inputs in order, whatever the tile: so a row's result does not depend,
// to the last bit, on the rows beside it or on the number of threads.
#pragma once

#include "simd.h"

namespace {

constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;

// How far ahead of their use columns are fetched: measured best of 8, 16 and 32 on Zen 4.
constexpr size_t kPrefetchWords = 32;

#if defined(__AVX512F__)
constexpr int kTileRows = 12;  // 24 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kTileRows = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 4;
#endif

struct Float32 {
  using Sum = Floats;
  static constexpr size_t kPerWord = 1;
  static Sum multiply_add(Words rows, Words columns, Sum sum) {
    return fused_multiply_add(as_floats(rows), as_floats(columns), sum);
  }
};

struct Bfloat16 {
  using Sum = Floats;
  static constexpr size_t kPerWord = 2;
  static Sum multiply_add(Words rows, Words columns, Sum sum) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(rows), reinterpret_cast<__m512bh>(columns));
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return vbfdotq_f32(sum, reinterpret_cast<bfloat16x8_t>(rows), reinterpret_cast<bfloat16x8_t>(columns));
#else
    // A bfloat16 is the upper half of a float32.
    const Sum even = fused_multiply_add(as_floats(rows << 16), as_floats(columns << 16), sum);
    return fused_multiply_add(as_floats(rows & 0xffff0000u), as_floats(columns & 0xffff0000u), even);
#endif
  }
};

struct Int8 {
  using Sum = Ints;
  static constexpr size_t kPerWord = 4;
#if defined(__AVX512VNNI__)
  // The instruction takes unsigned rows: they are stored 128 higher, which the epilogue takes off again.
  static constexpr int kRowOffset = 128;
#else
  static constexpr int kRowOffset = 0;
#endif
  static Sum multiply_add(Words rows, Words columns, Sum sum) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(rows), reinterpret_cast<__m512i>(columns)));
#elif defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, reinterpret_cast<int8x16_t>(rows), reinterpret_cast<int8x16_t>(columns));
#else
    return sum + products_of(rows, columns);
#endif
  }

 private:
  // Pairs of 16-bit products: exact, where the 8-bit instruction of this age would saturate.
  static Ints products_of(Words rows, Words columns) {
#if defined(__AVX512BW__)
    const auto widened = [](Words words, int shift) {
      return _mm512_srai_epi16(_mm512_slli_epi16(reinterpret_cast<__m512i>(words), shift), 8);
    };
    return reinterpret_cast<Ints>(_mm512_add_epi32(_mm512_madd_epi16(widened(rows, 8), widened(columns, 8)),
                                                   _mm512_madd_epi16(widened(rows, 0), widened(columns, 0))));
#elif defined(__AVX2__)
    const auto widened = [](Words words, int shift) {
      return _mm256_srai_epi16(_mm256_slli_epi16(reinterpret_cast<__m256i>(words), shift), 8);
    };
    return reinterpret_cast<Ints>(_mm256_add_epi32(_mm256_madd_epi16(widened(rows, 8), widened(columns, 8)),
                                                   _mm256_madd_epi16(widened(rows, 0), widened(columns, 0))));
#else
    Ints sum = {};
    for (int shift = 24; shift >= 0; shift -= 8)
      sum += (reinterpret_cast<Ints>(rows << shift) >> 24) * (reinterpret_cast<Ints>(columns << shift) >> 24);
    return sum;
#endif
  }
};

// sum[row][vector] = rows times columns. `group_step` is the distance in words from one group of a row to the next.
template <class Number, int kRows>
inline __attribute__((always_inline)) void multiply(const uint32_t* rows, size_t group_step, const uint32_t* columns,
                                                    size_t num_words,
                                                    typename Number::Sum (&sum)[kRows][kPanelVectors]) {
  const auto step = [&sum](const uint32_t* row, const uint32_t* column) __attribute__((always_inline)) {
    Words panel[kPanelVectors];
#pragma GCC unroll 4
    for (int vector = 0; vector < kPanelVectors; ++vector) panel[vector] = load<Words>(column + vector * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Words word = broadcast(row[r * kLanes]);
#pragma GCC unroll 4
      for (int vector = 0; vector < kPanelVectors; ++vector)
        sum[r][vector] = Number::multiply_add(word, panel[vector], sum[r][vector]);
    }
  };
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int vector = 0; vector < kPanelVectors; ++vector) sum[r][vector] = typename Number::Sum{};

  for (; num_words >= kLanes; num_words -= kLanes, rows += group_step) {
    // The hardware's own prefetching loses the rows where a tile ends and the columns where a page does.
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) __builtin_prefetch(rows + group_step + r * kLanes);
#pragma GCC unroll 4
    for (int word = 0; word < kLanes; ++word, columns += kPanel) {
#pragma GCC unroll 4
      for (int vector = 0; vector < kPanelVectors; ++vector)
        __builtin_prefetch(columns + kPrefetchWords * kPanel + vector * kLanes);
      step(rows + word, columns);
    }
  }
  for (size_t word = 0; word < num_words; ++word, columns += kPanel) step(rows + word, columns);
}

}  // namespace
