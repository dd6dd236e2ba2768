// The operations on a GPU: their kernels' lives. They run on ONNX Runtime's stream and wait for nothing.
//
// Weights stay in the host's memory until a kernel is made, which packs them and copies them to the device once. Rows are
// looked at on the device alone: one that lies in no table makes its scores NaN, where the CPU's kernels refuse the run.

#include <sched.h>

#include "../cpu/operands.h"
#include "launches.h"

#ifndef QIN_PROVIDER  // tests have another
#define QIN_PROVIDER "CUDAExecutionProvider"
#endif

namespace qin {
namespace {

// A custom op for sessions with one way to multiply float32.
struct Op : ort::CustomOp {
  bool tf32;
  uint64_t* created;
};

// What every kernel has.
struct Kernel {
  Api api;
  const bool tf32;
  ort::Allocator* allocator = nullptr;
  cuda::Device device{};

  Kernel(const void* const* table, const Op& op) : api(table), tf32(op.tf32) {}
  ~Kernel() {
    if (allocator) api.release(allocator);
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  OrtStatus* fail(const char* what) const {
    char message[256];
    snprintf(message, sizeof message, "qin on CUDA: %s", what);
    return api.error(ErrorCode::kFail, message);
  }
  OrtStatus* stop_at(cudaError_t error) const {
    return error == cudaSuccess ? nullptr : fail(cudaGetErrorString(error));
  }
  OrtStatus* stop_at(const char* error) const { return error ? fail(error) : nullptr; }

  OrtStatus* prepare(const OrtKernelInfo* info) {
    QIN_RETURN_IF(api.allocator(info, &allocator));
    int number = 0, processors = 0, shared_memory = 0;
    QIN_RETURN_IF(stop_at(cudaGetDevice(&number)));
    QIN_RETURN_IF(stop_at(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, number)));
    QIN_RETURN_IF(
        stop_at(cudaDeviceGetAttribute(&shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, number)));
    device = {static_cast<unsigned>(processors), static_cast<size_t>(shared_memory)};
    return nullptr;
  }

  OrtStatus* stream_of(const OrtKernelContext* context, cudaStream_t* stream) const {
    void* handle = nullptr;
    QIN_RETURN_IF(api.stream(context, &handle));
    *stream = static_cast<cudaStream_t>(handle);
    return nullptr;
  }
};

// Memory of ONNX Runtime's arena. It goes back as soon as the launches that use it are in the stream: whoever gets it next
// in the same stream comes behind them, and the arena lets no other stream have it before. A run without a stream of its
// own, which the arena cannot tell from others, is in the one order that all such runs have.
class Scratch {
 public:
  Scratch(const Kernel& kernel, const OrtKernelContext* context, cudaStream_t stream, size_t size) : kernel_(kernel) {
    if (stream)
      failed_ = kernel.api.scratch(context, kernel.allocator->Info(kernel.allocator), size, &memory_);
    else
      memory_ = kernel.allocator->Alloc(kernel.allocator, size);
  }
  ~Scratch() {
    if (memory_) kernel_.allocator->Free(kernel_.allocator, memory_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  OrtStatus* failed() const { return failed_ || memory_ ? failed_ : kernel_.fail("no memory"); }
  char* data() const { return static_cast<char*>(memory_); }

 private:
  const Kernel& kernel_;
  void* memory_ = nullptr;
  OrtStatus* failed_ = nullptr;
};

struct AttentionKernel : Kernel, AttentionOperands {
  using Kernel::Kernel;
  static ort::MemoryType memory_of(size_t) { return ort::MemoryType::kDefault; }

  OrtStatus* prepare(const OrtKernelInfo* info) {
    QIN_RETURN_IF(Kernel::prepare(info));
    return stop_at(cuda::prepare_attention());
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor inputs[kNumInputs];
    const Inputs given(api, context);
    for (size_t i = 0; i < kNumInputs; ++i) QIN_RETURN_IF(given.read(i, &inputs[i]));
    AttentionArguments a{};
    QIN_RETURN_IF(arguments_of(api, inputs, &a));
    if (a.num_users > cuda::kMostUsers || a.num_candidates > cuda::kMostRows)
      return refuse(api, "qin.SparseTargetAttention: at most %zu users of at most %zu candidates in one run",
                    cuda::kMostUsers, cuda::kMostRows);
    QIN_RETURN_IF(new_outputs(api, context, inputs, &a));
    if (a.num_users * a.num_candidates == 0) return nullptr;
    cudaStream_t stream = nullptr;
    QIN_RETURN_IF(stream_of(context, &stream));
    return stop_at(cuda::attend(a, device, stream));
  }
};

// A tensor's content where the host can read it, wherever ONNX Runtime keeps it.
class HostCopy {
 public:
  HostCopy() = default;
  ~HostCopy() { free(memory_); }
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  // From here on the tensor's data is the copy.
  cudaError_t take(Tensor* tensor) {
    if (!tensor->data) return cudaSuccess;
    size_t size = size_of(tensor->type);
    for (size_t axis = 0; axis < tensor->rank; ++axis) size *= tensor->at(axis);
    memory_ = malloc(size ? size : 1);
    if (!memory_) return cudaErrorMemoryAllocation;
    const cudaError_t error = size ? cudaMemcpy(memory_, tensor->data, size, cudaMemcpyDefault) : cudaSuccess;
    tensor->data = memory_;
    return error;
  }

 private:
  static size_t size_of(ElementType type) {
    return type == ElementType::kInt8 ? 1 : type == ElementType::kBfloat16 ? 2 : 4;
  }
  void* memory_ = nullptr;
};

struct TowerKernel : Kernel, TowerOperands {
  using Kernel::Kernel;
  static ort::MemoryType memory_of(size_t input) {
    return is_weight(input) ? ort::MemoryType::kCpuInput : ort::MemoryType::kDefault;
  }

  TowerShape shape{};
  cuda::Product product{};
  char* packed = nullptr;

  ~TowerKernel() {
    if (packed) allocator->Free(allocator, packed);
  }

  OrtStatus* prepare(const OrtKernelInfo* info) {
    QIN_RETURN_IF(Kernel::prepare(info));
    Tensor inputs[kNumInputs];
    bool all = false;
    QIN_RETURN_IF(constant_weights(api, info, inputs, &all));
    // To pack them in every run would mean to wait for the device in every run.
    if (!all) return refuse(api, "qin.QuadraticTower: on CUDA the weights must be part of the graph");
    QIN_RETURN_IF(shape_of(api, inputs, &shape));
    product = shape.precision == Precision::kInt8       ? cuda::Product::kInt8
              : shape.precision == Precision::kBfloat16 ? cuda::Product::kBfloat16
              : tf32                                    ? cuda::Product::kTf32
                                                        : cuda::Product::kFloat32;
    QIN_RETURN_IF(stop_at(cuda::prepare_tower(device, product)));
    HostCopy copies[kNumInputs];
    for (size_t i = 0; i < kNumInputs; ++i)
      if (is_weight(i)) QIN_RETURN_IF(stop_at(copies[i].take(&inputs[i])));
    return pack(inputs);
  }

  OrtStatus* pack(const Tensor* inputs) {
    const size_t size = cuda::packed_size(shape, product);
    char* const made = static_cast<char*>(malloc(size));
    packed = static_cast<char*>(allocator->Alloc(allocator, size));
    OrtStatus* failed = made && packed ? nullptr : fail("no memory for the weights");
    if (!failed) {
      cuda::pack_tower(shape, product, weights_of(inputs), made);
      failed = stop_at(cudaMemcpy(packed, made, size, cudaMemcpyHostToDevice));
      // It returns before all has arrived, and streams that run kernels do not wait for its own.
      if (!failed) failed = stop_at(cudaStreamSynchronize(nullptr));
    }
    free(made);
    return failed;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor inputs[kNumInputs];
    const Inputs given(api, context);
    for (size_t i = 0; i < kNumInputs; ++i)
      if (!is_weight(i)) QIN_RETURN_IF(given.read(i, &inputs[i]));
    TowerShape shape = this->shape;
    TowerArguments a{};
    QIN_RETURN_IF(arguments_of(api, inputs, &shape, &a));
    if (a.num_rows > cuda::kMostRows)
      return refuse(api, "qin.QuadraticTower: at most %zu candidates in one run", cuda::kMostRows);
    QIN_RETURN_IF(new_output(api, context, 0, inputs[kCandidateRows].shape, 2, &a.scores));
    if (!a.num_rows) return nullptr;
    cudaStream_t stream = nullptr;
    QIN_RETURN_IF(stream_of(context, &stream));
    const Scratch scratch(*this, context, stream, cuda::tower_scratch(shape, product, a.num_rows));
    QIN_RETURN_IF(scratch.failed());
    return stop_at(cuda::run_tower(shape, product, device, packed, a, scratch.data(), stream));
  }
};

uint64_t attention_created = 0, tower_created = 0;

template <class KernelType>
Op make_op(bool tf32, uint64_t* created) {
  Op op{};
  op.tf32 = tf32;
  op.created = created;
  set_interface<KernelType>(&op);
  op.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return QIN_PROVIDER; };
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t index) { return KernelType::memory_of(index); };
  return op;
}

// The domain with its ops; sessions refer to it for as long as they live.
struct Domain {
  Op attention, tower;
  OrtCustomOpDomain* domain;
};

Domain* domains[2] = {};  // without and with TF32
int domains_lock = 0;

OrtStatus* make_domain(const Api& api, bool tf32, Domain** out) {
  Domain* made = static_cast<Domain*>(calloc(1, sizeof(Domain)));
  if (!made) return api.error(ErrorCode::kFail, "qin: no memory for the operations");
  made->attention = make_op<AttentionKernel>(tf32, &attention_created);
  made->tower = make_op<TowerKernel>(tf32, &tower_created);
  QIN_RETURN_IF(api.create_domain("qin", &made->domain));
  QIN_RETURN_IF(api.add_op(made->domain, &made->attention));
  QIN_RETURN_IF(api.add_op(made->domain, &made->tower));
  *out = made;
  return nullptr;
}

OrtStatus* domain_for(const Api& api, bool tf32, Domain** out) {
  while (__atomic_exchange_n(&domains_lock, 1, __ATOMIC_ACQUIRE)) sched_yield();
  OrtStatus* const failed = domains[tf32] ? nullptr : make_domain(api, tf32, &domains[tf32]);
  *out = domains[tf32];
  __atomic_store_n(&domains_lock, 0, __ATOMIC_RELEASE);
  return failed;
}

OrtStatus* tf32_of(const Api& api, const OrtSessionOptions* options, bool* tf32) {
  constexpr const char* kKey = "qin.tf32";
  *tf32 = false;
  int found = 0;
  QIN_RETURN_IF(api.has_config(options, kKey, &found));
  if (!found) return nullptr;
  char value[8] = {};
  size_t size = sizeof value;
  OrtStatus* const failed = api.config(options, kKey, value, &size);
  if (failed) api.release(failed);  // longer than any that is known
  *tf32 = !strcmp(value, "1");
  if (failed || (!*tf32 && strcmp(value, "0"))) return refuse(api, "qin.tf32 must be 0 or 1");
  return nullptr;
}

}  // namespace
}  // namespace qin

#define QIN_EXPORT extern "C" __attribute__((visibility("default")))

// ONNX Runtime calls this when the library is registered with a session's options.
QIN_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const qin::ort::ApiBase* base) {
  const void* const* table = base->GetApi(qin::ort::kApiVersion);
  if (!table) {
    // Without the API there is no way to make a status but the first version's, which every runtime has.
    return qin::ort::Api(base->GetApi(1)).error(qin::ort::ErrorCode::kFail, "qin: ONNX Runtime 1.18 or newer is needed");
  }
  const qin::ort::Api api(table);
  bool tf32 = false;
  if (OrtStatus* failed = qin::tf32_of(api, options, &tf32)) return failed;
  qin::Domain* domain = nullptr;
  if (OrtStatus* failed = qin::domain_for(api, tf32, &domain)) return failed;
  return api.add_domain(options, domain->domain);
}

// How many kernels of an operation were made so far in this process.
QIN_EXPORT uint64_t qin_kernels_created(const char* op) {
  if (!strcmp(op, qin::AttentionKernel::kName)) return __atomic_load_n(&qin::attention_created, __ATOMIC_RELAXED);
  if (!strcmp(op, qin::TowerKernel::kName)) return __atomic_load_n(&qin::tower_created, __ATOMIC_RELAXED);
  return 0;
}

// The version of the domain whose operations these are.
QIN_EXPORT int qin_domain_version() { return qin::kDomainVersion; }

// What the library holds code for, and what it was compiled from.
QIN_EXPORT const char* qin_architectures() { return QIN_ARCHITECTURES; }
QIN_EXPORT const char* qin_sources() { return QIN_SOURCES; }
