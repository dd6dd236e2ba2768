// The CUDA runtime's functions that scoring/cudart.py calls, in the host's memory: copies are made at once, or recorded
// while their stream records; a launch makes the recorded ones. It counts what lives and fails where it is told to.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {
struct Copy {
  void* target;
  const void* source;
  size_t size;
};
struct Stream {
  bool records = false;
  std::vector<Copy> recorded;
};
using Graph = std::vector<Copy>;

std::map<std::string, int> failures;
int64_t live = 0;
int64_t streams = 0;

int failure(const char* function) {
  auto found = failures.find(function);
  return found == failures.end() ? 0 : found->second;
}
constexpr size_t kFree = size_t{1} << 33;
constexpr int kInvalid = 1, kCapturing = 900;
}  // namespace

#define FAIL_IF_TOLD \
  if (int code = failure(__func__)) return code

extern "C" {
int64_t emulated_live() { return live; }
int64_t emulated_streams() { return streams; }
void emulated_fail(const char* function, int code) { failures[function] = code; }

const char* cudaGetErrorString(int code) { return code == 700 ? "an illegal memory access was encountered" : "other"; }

int cudaMalloc(void** memory, size_t size) {
  FAIL_IF_TOLD;
  *memory = aligned_alloc(256, (size + 255) / 256 * 256);
  std::memset(*memory, 0xFF, size);
  ++live;
  return 0;
}
int cudaFree(void* memory) {
  std::free(memory);
  --live;
  return 0;
}
int cudaHostAlloc(void** memory, size_t size, unsigned flags) { return flags == 1 ? cudaMalloc(memory, size) : kInvalid; }
int cudaFreeHost(void* memory) { return cudaFree(memory); }
int cudaMemGetInfo(size_t* free, size_t* total) {
  FAIL_IF_TOLD;
  *free = kFree;
  *total = 2 * kFree;
  return 0;
}
int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  FAIL_IF_TOLD;
  *stream = new Stream;
  ++streams;
  return flags == 1 ? 0 : kInvalid;
}
int cudaMemsetAsync(void* memory, int value, size_t size, void* stream) {
  FAIL_IF_TOLD;
  std::memset(memory, value, size);
  return stream ? 0 : kInvalid;
}
int cudaMemcpyAsync(void* target, const void* source, size_t size, int direction, void* stream) {
  FAIL_IF_TOLD;
  if (direction < 1 || direction > 3) return kInvalid;
  auto* queue = static_cast<Stream*>(stream);
  if (queue->records) {
    queue->recorded.push_back({target, source, size});
  } else {
    std::memmove(target, source, size);
  }
  return 0;
}
int cudaStreamSynchronize(void* stream) {
  FAIL_IF_TOLD;
  return static_cast<Stream*>(stream)->records ? kCapturing : 0;
}
int cudaStreamBeginCapture(void* stream, int mode) {
  FAIL_IF_TOLD;
  auto* queue = static_cast<Stream*>(stream);
  if (queue->records || mode != 2) return kCapturing;
  queue->records = true;
  return 0;
}
int cudaStreamEndCapture(void* stream, void** graph) {
  FAIL_IF_TOLD;
  auto* queue = static_cast<Stream*>(stream);
  if (!queue->records) return kCapturing;
  *graph = new Graph(std::move(queue->recorded));
  *queue = Stream{};
  ++live;
  return 0;
}
int cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  FAIL_IF_TOLD;
  *executable = new Graph(*static_cast<Graph*>(graph));
  ++live;
  return flags == 0 ? 0 : kInvalid;
}
int cudaGraphLaunch(void* executable, void* stream) {
  FAIL_IF_TOLD;
  if (static_cast<Stream*>(stream)->records) return kCapturing;
  for (const Copy& copy : *static_cast<Graph*>(executable)) std::memmove(copy.target, copy.source, copy.size);
  return 0;
}
int cudaGraphDestroy(void* graph) {
  delete static_cast<Graph*>(graph);
  --live;
  return 0;
}
int cudaGraphExecDestroy(void* executable) { return cudaGraphDestroy(executable); }
int cudaEventCreate(void** event) {
  *event = new int;
  ++live;
  return 0;
}
int cudaEventRecord(void* event, void* stream) { return event && stream ? 0 : kInvalid; }
int cudaEventDestroy(void* event) {
  delete static_cast<int*>(event);
  --live;
  return 0;
}
int cudaEventElapsedTime(float* elapsed_ms, void*, void*) {
  *elapsed_ms = 2.5f;
  return 0;
}
}
