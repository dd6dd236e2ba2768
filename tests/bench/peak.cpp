// How fast a core can multiply and add at most: from registers alone, with more sums than hide one instruction's latency.

#include <stddef.h>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kSums = 12;
#else
constexpr int kLanes = 4, kSums = 24;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));

}  // namespace

// Numbers that a round multiplies and adds.
extern "C" size_t multiply_adds_of_a_round() { return size_t{kSums} * kLanes; }

// Returns what it computed, so that no compiler leaves it out.
extern "C" float multiply_and_add(size_t num_rounds) {
  Floats sums[kSums], factor = Floats{} + 0.5f, summand = Floats{} + 0.25f;
  for (int i = 0; i < kSums; ++i) sums[i] = Floats{} + static_cast<float>(i);
  for (size_t round = 0; round < num_rounds; ++round)
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * factor + summand;
  float total = 0;
  for (int i = 0; i < kSums; ++i)
    for (int lane = 0; lane < kLanes; ++lane) total += sums[i][lane];
  return total;
}
