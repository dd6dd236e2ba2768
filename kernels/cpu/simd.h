// One vector's worth of numbers, for whatever instruction set the including file is compiled for.
//
// GCC's and Clang's vector types give arithmetic, comparison and selection on every machine; instructions that have no
// operator are named below, per instruction set. Everything is in an unnamed namespace: a function that two files
// compiled with different instructions shared by name would be the linker's to choose.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));

template <class Vector>
inline Vector load(const void* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class Vector>
inline void store(void* to, Vector vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

// The first `count` numbers, then zeros; nothing past them is read.
inline Floats load_first(const float* from, size_t count) {
  Floats vector = {};
  __builtin_memcpy(&vector, from, count * sizeof(float));
  return vector;
}

inline void store_first(float* to, Floats vector, size_t count) { __builtin_memcpy(to, &vector, count * sizeof(float)); }

// x - 0 is x for every x, minus zero and infinities included.
inline Floats broadcast(float value) { return value - Floats{}; }
inline Words broadcast(uint32_t value) { return value - Words{}; }

inline Floats as_floats(Words words) { return reinterpret_cast<Floats>(words); }
inline Words as_words(Floats floats) { return reinterpret_cast<Words>(floats); }

inline Floats to_floats(Ints ints) { return __builtin_convertvector(ints, Floats); }

inline Floats fused_multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

inline Floats absolute(Floats a) { return as_floats(as_words(a) & 0x7fffffffu); }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float sum_of(Floats vector) {
  float parts[kLanes];
  store(parts, vector);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) parts[lane] += parts[lane + width];
  return parts[0];
}

inline float largest_of(Floats vector) {
  float parts[kLanes];
  store(parts, vector);
  for (int lane = 1; lane < kLanes; ++lane) parts[0] = parts[lane] > parts[0] ? parts[lane] : parts[0];
  return parts[0];
}

constexpr size_t rounded_up(size_t count, size_t multiple) { return (count + multiple - 1) / multiple * multiple; }
constexpr size_t quotient_up(size_t count, size_t divisor) { return (count + divisor - 1) / divisor; }
constexpr size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

}  // namespace
