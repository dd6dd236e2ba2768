// What the kernels ask of a GPU, under the names that they use.
//
// A C++ compiler for the host finds the same names in the file that QIN_EMULATOR names: there every thread of a block is
// run in turn, so that tests run these very kernels where there is no GPU.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define QIN_DEVICE static __device__ __forceinline__
#define QIN_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)

namespace qin::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kTensorCores = false;  // Turing's know neither TF32 nor bfloat16
#else
constexpr bool kTensorCores = true;
#endif

using Stream = cudaStream_t;

QIN_DEVICE uint4* shared_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}

QIN_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
QIN_DEVICE uint32_t as_bits(float number) { return __float_as_uint(number); }

QIN_DEVICE uint32_t shuffle(uint32_t word, unsigned lane) { return __shfl_sync(0xffffffffu, word, lane); }
QIN_DEVICE uint32_t shuffle_xor(uint32_t word, unsigned mask) { return __shfl_xor_sync(0xffffffffu, word, mask); }

// Sixteen bytes of global memory into shared memory, there once their group has been waited for.
QIN_DEVICE void copy_async(uint4* to, const uint4* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
#else
  *to = *from;
#endif
}
QIN_DEVICE void close_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kMayBeOpen>
QIN_DEVICE void wait_for_groups() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kMayBeOpen) : "memory");
#endif
}

// Past the first-level cache, which does not see what other blocks wrote.
QIN_DEVICE float load_fresh(const float* from) { return __ldcg(from); }

// sums (16 by 8) += rows (16 by 8 words) columns (8 words by 8), of one warp, as PTX lays the operands among its lanes.
QIN_DEVICE void mma_tf32(float (&sums)[4], const uint4& rows, const uint2& columns) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(rows.x), "r"(rows.y), "r"(rows.z), "r"(rows.w), "r"(columns.x), "r"(columns.y));
#endif
}
QIN_DEVICE void mma_bfloat16(float (&sums)[4], const uint4& rows, const uint2& columns) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(rows.x), "r"(rows.y), "r"(rows.z), "r"(rows.w), "r"(columns.x), "r"(columns.y));
#endif
}
QIN_DEVICE void mma_int8(int (&sums)[4], const uint4& rows, const uint2& columns) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(rows.x), "r"(rows.y), "r"(rows.z), "r"(rows.w), "r"(columns.x), "r"(columns.y));
#endif
}

// To TF32's 10 bits of mantissa, halves away from zero.
QIN_DEVICE uint32_t rounded_to_tf32(float number) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(number));
  return bits;
#else
  return as_bits(number);
#endif
}

// Two float32 rounded to nearest even, the second in the upper half.
QIN_DEVICE uint32_t bfloat16_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  const auto rounded = [](uint32_t bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(as_bits(low)) | rounded(as_bits(high)) << 16;
#endif
}

// Sum over four pairs of signed bytes.
QIN_DEVICE int dot4(uint32_t a, uint32_t b, int sum) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
}

struct Grid {
  unsigned x, y, z;
};

// Lets a kernel's blocks have so much shared memory; once per device, before the first launch.
template <class Arguments>
const char* allow_shared_memory(void (*kernel)(Arguments), size_t size) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(size));
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // or the next launch of this thread would be told of it
  return cudaGetErrorString(error);
}

// Null, or what is wrong.
template <class Arguments>
const char* launch(void (*kernel)(Arguments), Grid grid, unsigned num_threads, size_t shared_size, Stream stream,
                   const Arguments& arguments) {
  kernel<<<dim3(grid.x, grid.y, grid.z), num_threads, shared_size, stream>>>(arguments);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace qin::cuda

#else
#include QIN_EMULATOR
#endif
