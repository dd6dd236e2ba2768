// What the operations use of CUDA's runtime, on a GPU that emulator.h plays: its memory is the host's. A copy to it is on
// its way until its stream is waited for.
#pragma once

#include <string.h>

#include <vector>

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDefault };
using cudaStream_t = void*;

inline const char* cudaGetErrorString(cudaError_t) { return "an error of the emulated GPU"; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? QIN_EMULATED_PROCESSORS : 100 * 1024;
  return cudaSuccess;
}

struct CopyUnderWay {
  void* to;
  std::vector<char> bytes;
};
inline std::vector<CopyUnderWay> copies_under_way;

inline cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  const char* const bytes = static_cast<const char*>(from);
  if (kind == cudaMemcpyHostToDevice)
    copies_under_way.push_back({to, {bytes, bytes + size}});
  else
    memcpy(to, from, size);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  for (const CopyUnderWay& copy : copies_under_way) memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
  copies_under_way.clear();
  return cudaSuccess;
}
