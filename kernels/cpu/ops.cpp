// The operations on the CPU: their kernels' lives, and the checks of the rows that come in.
//
// A kernel is made once per node of a session; it packs the weights that the graph holds. It is then run by any number
// of threads at once, so a run changes nothing in it.

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "operands.h"

namespace qin {
namespace {

OrtStatus* check_rows(const Api& api, const char* name, const int64_t* rows, size_t count, size_t stride,
                      size_t num_rows) {
  const int64_t end = static_cast<int64_t>(num_rows);
  for (size_t i = 0; i < count; ++i)
    if (const int64_t row = rows[i * stride]; row < -end || row >= end)
      return refuse(api, "qin: %s holds %lld, but its table has %zu rows", name, static_cast<long long>(row), num_rows);
  return nullptr;
}

// Memory of ONNX Runtime's own arena for the length of a run.
class Scratch {
 public:
  Scratch(ort::Allocator* allocator, size_t size)
      : allocator_(allocator), memory_(allocator->Alloc(allocator, size + kAlignment)) {}
  ~Scratch() {
    if (memory_) allocator_->Free(allocator_, memory_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null where there was no memory.
  char* data() const {
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory_);
    return memory_ ? reinterpret_cast<char*>((address + kAlignment - 1) / kAlignment * kAlignment) : nullptr;
  }

 private:
  ort::Allocator* allocator_;
  void* memory_;
};

// ONNX Runtime's own pool. A task that it does not start is not missed: the ones that run share all the work.
struct Pool {
  const Api& api;
  const OrtKernelContext* context;

  static void run(const void* self, void (*task)(void*, size_t), void* data, size_t num_tasks) {
    const Pool& pool = *static_cast<const Pool*>(self);
    if (OrtStatus* failed = pool.api.parallel_for(pool.context, task, num_tasks, data)) {
      pool.api.release(failed);
      task(data, 0);
    }
  }
};

// A custom op for sessions with one number of threads.
struct Op : ort::CustomOp {
  size_t num_threads;
  uint64_t* created;
};

// What every kernel has.
struct Kernel {
  Api api;
  const InstructionSet& instructions;
  size_t num_threads;
  ort::Allocator* allocator = nullptr;

  Kernel(const void* const* table, const Op& op)
      : api(table), instructions(instruction_set()), num_threads(op.num_threads) {}
  ~Kernel() {
    if (allocator) api.release(allocator);
  }
  OrtStatus* prepare(const OrtKernelInfo* info) { return api.allocator(info, &allocator); }
};

struct AttentionKernel : Kernel, AttentionOperands {
  using Kernel::Kernel;

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor inputs[kNumInputs];
    const Inputs given(api, context);
    for (size_t i = 0; i < kNumInputs; ++i) QIN_RETURN_IF(given.read(i, &inputs[i]));
    AttentionArguments a{};
    QIN_RETURN_IF(arguments_of(api, inputs, &a));
    QIN_RETURN_IF(check_rows(api, "candidate_rows", a.candidate_rows, a.num_users * a.num_candidates, 1,
                             a.num_table_rows));
    QIN_RETURN_IF(
        check_rows(api, "history_rows", a.history_rows, a.num_users * a.history_length, 1, a.num_table_rows));
    QIN_RETURN_IF(new_outputs(api, context, inputs, &a));
    if (a.num_users * a.num_candidates == 0) return nullptr;
    const Scratch scratch(allocator, instructions.attention_scratch(a, num_threads));
    if (!scratch.data()) return api.error(ErrorCode::kFail, "qin.SparseTargetAttention: no memory");
    const Pool pool{api, context};
    instructions.attention(a, {num_threads, &pool, Pool::run}, scratch.data());
    return nullptr;
  }
};

struct TowerKernel : Kernel, TowerOperands {
  using Kernel::Kernel;

  TowerShape shape{};
  char* packed = nullptr;  // null where the weights are not part of the graph

  ~TowerKernel() { free(packed); }

  OrtStatus* prepare(const OrtKernelInfo* info) {
    QIN_RETURN_IF(Kernel::prepare(info));
    Tensor inputs[kNumInputs];
    bool all = false;
    QIN_RETURN_IF(constant_weights(api, info, inputs, &all));
    if (!all) return nullptr;
    QIN_RETURN_IF(shape_of(api, inputs, &shape));
    return pack(inputs, shape, &packed);
  }

  OrtStatus* pack(const Tensor* inputs, const TowerShape& shape, char** packed) const {
    const size_t size = instructions.packed_size(shape);
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, size)) return api.error(ErrorCode::kFail, "qin.QuadraticTower: no memory");
    *packed = static_cast<char*>(memory);
    instructions.pack(shape, weights_of(inputs), *packed);
    return nullptr;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor inputs[kNumInputs];
    const Inputs given(api, context);
    for (size_t i = 0; i < kNumInputs; ++i)
      if (!packed || !is_weight(i)) QIN_RETURN_IF(given.read(i, &inputs[i]));
    TowerShape shape = this->shape;
    if (!packed) QIN_RETURN_IF(shape_of(api, inputs, &shape));
    TowerArguments a{};
    QIN_RETURN_IF(arguments_of(api, inputs, &shape, &a));
    QIN_RETURN_IF(check_rows(api, "candidate_rows", a.candidate_rows, a.num_rows, 1, a.num_table_rows));
    QIN_RETURN_IF(check_rows(api, "levels", a.levels, a.num_rows, 2, a.num_likes));
    QIN_RETURN_IF(check_rows(api, "levels", a.levels + 1, a.num_rows, 2, a.num_views));
    const Tensor& candidates = inputs[kCandidateRows];
    QIN_RETURN_IF(new_output(api, context, 0, candidates.shape, 2, &a.scores));
    if (!a.num_rows) return nullptr;

    char* packed_here = nullptr;
    if (!packed) QIN_RETURN_IF(pack(inputs, shape, &packed_here));
    OrtStatus* const failed = run(shape, packed ? packed : packed_here, a, context);
    free(packed_here);
    return failed;
  }

  OrtStatus* run(const TowerShape& shape, const char* weights, const TowerArguments& a,
                 OrtKernelContext* context) const {
    const Scratch scratch(allocator, instructions.tower_scratch(shape, a.num_rows, num_threads));
    if (!scratch.data()) return api.error(ErrorCode::kFail, "qin.QuadraticTower: no memory");
    const Pool pool{api, context};
    instructions.tower(shape, weights, a, {num_threads, &pool, Pool::run}, scratch.data());
    return nullptr;
  }
};

uint64_t attention_created = 0, tower_created = 0;

template <class KernelType>
Op make_op(size_t num_threads, uint64_t* created) {
  Op op{};
  op.num_threads = num_threads;
  op.created = created;
  set_interface<KernelType>(&op);
  return op;
}

size_t available_threads() {
#if defined(__linux__)
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return static_cast<size_t>(CPU_COUNT(&cpus));
#endif
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<size_t>(online) : 1;
}

OrtStatus* threads_of(const Api& api, const OrtSessionOptions* options, size_t* num_threads) {
  constexpr const char* kKey = "qin.num_threads";
  *num_threads = 0;
  int found = 0;
  QIN_RETURN_IF(api.has_config(options, kKey, &found));
  if (found) {
    char value[32] = {};
    size_t size = sizeof value;
    QIN_RETURN_IF(api.config(options, kKey, value, &size));
    char* end = value;
    const long parsed = strtol(value, &end, 10);
    if (end == value || *end || parsed < 0 || parsed > 4096)
      return refuse(api, "qin.num_threads must be a number from 0 to 4096");
    *num_threads = static_cast<size_t>(parsed);
  }
  if (!*num_threads) *num_threads = available_threads();
  return nullptr;
}

// The domain with its ops for one number of threads. Sessions refer to it for as long as they live, so it is kept, and
// shared by all that have as many threads.
struct Domain {
  Op attention, tower;
  OrtCustomOpDomain* domain;
  Domain* next;
};

Domain* domains = nullptr;
int domains_lock = 0;

OrtStatus* make_domain(const Api& api, size_t num_threads, Domain** out) {
  Domain* made = static_cast<Domain*>(calloc(1, sizeof(Domain)));
  if (!made) return api.error(ErrorCode::kFail, "qin: no memory for the operations");
  made->attention = make_op<AttentionKernel>(num_threads, &attention_created);
  made->tower = make_op<TowerKernel>(num_threads, &tower_created);
  QIN_RETURN_IF(api.create_domain("qin", &made->domain));
  QIN_RETURN_IF(api.add_op(made->domain, &made->attention));
  QIN_RETURN_IF(api.add_op(made->domain, &made->tower));
  *out = made;
  return nullptr;
}

OrtStatus* domain_for(const Api& api, size_t num_threads, Domain** out) {
  while (__atomic_exchange_n(&domains_lock, 1, __ATOMIC_ACQUIRE)) sched_yield();
  Domain* found = domains;
  while (found && found->tower.num_threads != num_threads) found = found->next;
  OrtStatus* failed = nullptr;
  if (!found) {
    failed = make_domain(api, num_threads, &found);
    if (!failed) found->next = domains, domains = found;
  }
  __atomic_store_n(&domains_lock, 0, __ATOMIC_RELEASE);
  *out = found;
  return failed;
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
  size_t num_threads = 0;
  if (OrtStatus* failed = qin::threads_of(api, options, &num_threads)) return failed;
  qin::Domain* domain = nullptr;
  if (OrtStatus* failed = qin::domain_for(api, num_threads, &domain)) return failed;
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
