// The CUDA runtime's functions that scoring/cudart.py calls, in the host's memory: copies are made at once, or recorded
// while their stream records; a launch makes the recorded ones. It counts what lives, fails where it is told to, and keeps
// each thread's last error until that is asked for.
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

struct Failure {
  int code, times;
};
std::map<std::string, Failure> failures;
thread_local int last_error = 0;
int64_t live = 0;
int64_t streams = 0;

constexpr size_t kFree = size_t{1} << 33;
constexpr int kInvalid = 1, kCapturing = 900;

int noted(int code) {
  if (code) last_error = code;
  return code;
}
int failure(const char* function) {
  auto found = failures.find(function);
  if (found == failures.end() || !found->second.times) return 0;
  if (found->second.times > 0) --found->second.times;
  return noted(found->second.code);
}
}  // namespace

#define FAIL_IF_TOLD \
  if (int code = failure(__func__)) return code

extern "C" {
int64_t emulated_live() { return live; }
int64_t emulated_streams() { return streams; }
// So often; -1 is always, 0 no more.
void emulated_fail(const char* function, int code, int times) { failures[function] = {code, times}; }

int cudaGetLastError() {
  const int code = last_error;
  last_error = 0;
  return code;
}

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
  FAIL_IF_TOLD;
  return 0;
}
int cudaHostAlloc(void** memory, size_t size, unsigned flags) {
  FAIL_IF_TOLD;
  return flags == 1 ? cudaMalloc(memory, size) : noted(kInvalid);
}
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
  return flags == 1 ? 0 : noted(kInvalid);
}
int cudaMemsetAsync(void* memory, int value, size_t size, void* stream) {
  FAIL_IF_TOLD;
  std::memset(memory, value, size);
  return stream ? 0 : noted(kInvalid);
}
int cudaMemcpyAsync(void* target, const void* source, size_t size, int direction, void* stream) {
  FAIL_IF_TOLD;
  if (direction < 1 || direction > 3) return noted(kInvalid);
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
  return noted(static_cast<Stream*>(stream)->records ? kCapturing : 0);
}
int cudaStreamBeginCapture(void* stream, int mode) {
  FAIL_IF_TOLD;
  auto* queue = static_cast<Stream*>(stream);
  if (queue->records || mode != 2) return noted(kCapturing);
  queue->records = true;
  return 0;
}
int cudaStreamEndCapture(void* stream, void** graph) {
  auto* queue = static_cast<Stream*>(stream);
  const Stream ended = *queue;
  *queue = Stream{};
  FAIL_IF_TOLD;
  if (!ended.records) return noted(kCapturing);
  *graph = new Graph(ended.recorded);
  ++live;
  return 0;
}
int cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  FAIL_IF_TOLD;
  *executable = new Graph(*static_cast<Graph*>(graph));
  ++live;
  return flags == 0 ? 0 : noted(kInvalid);
}
int cudaGraphLaunch(void* executable, void* stream) {
  FAIL_IF_TOLD;
  if (static_cast<Stream*>(stream)->records) return noted(kCapturing);
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
int cudaEventRecord(void* event, void* stream) { return noted(event && stream ? 0 : kInvalid); }
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
