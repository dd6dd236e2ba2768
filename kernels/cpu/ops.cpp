// The operations as ONNX Runtime's custom ops: their interfaces, their kernels' lives, and the checks of what comes in.
//
// A kernel is made once per node of a session; it packs the weights that the graph holds. It is then run by any number
// of threads at once, so a run changes nothing in it.

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <new>

#include "kernels.h"
#include "ort_api.h"

namespace qin {
namespace {

using ort::Api;
using ort::Characteristic;
using ort::ElementType;
using ort::ErrorCode;

constexpr int kDomainVersion = 2;
constexpr size_t kMostRank = 3;

#define QIN_RETURN_IF(expression)                         \
  do {                                                    \
    if (OrtStatus* const failed = (expression)) return failed; \
  } while (false)

OrtStatus* refuse(const Api& api, const char* format, ...) __attribute__((format(printf, 2, 3)));
OrtStatus* refuse(const Api& api, const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return api.error(ErrorCode::kInvalidArgument, message);
}

// A tensor that ONNX Runtime owns; one that is left out has no data.
struct Tensor {
  const void* data = nullptr;
  ElementType type = ElementType::kUndefined;
  size_t rank = 0;
  int64_t shape[kMostRank] = {};

  template <class Number>
  const Number* as() const {
    return static_cast<const Number*>(data);
  }
  size_t at(size_t axis) const { return static_cast<size_t>(shape[axis]); }
  bool is(size_t a) const { return rank == 1 && at(0) == a; }
  bool is(size_t a, size_t b) const { return rank == 2 && at(0) == a && at(1) == b; }
  bool is(size_t a, size_t b, size_t c) const { return rank == 3 && at(0) == a && at(1) == b && at(2) == c; }
};

OrtStatus* read(const Api& api, const OrtValue* value, Tensor* tensor) {
  if (!value) return nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  QIN_RETURN_IF(api.info(value, &info));
  OrtStatus* failed = api.type(info, &tensor->type);
  if (!failed) failed = api.rank(info, &tensor->rank);
  if (!failed && tensor->rank > kMostRank) failed = refuse(api, "qin: a tensor has %zu axes", tensor->rank);
  if (!failed) failed = api.shape(info, tensor->shape, tensor->rank);
  api.release(info);
  void* data = nullptr;
  if (!failed) failed = api.data(value, &data);
  tensor->data = data;
  return failed;
}

// The inputs of one run, by position; those past the last given count as left out.
class Inputs {
 public:
  Inputs(const Api& api, const OrtKernelContext* context) : api_(api), context_(context) {}

  OrtStatus* read(size_t index, Tensor* tensor) const {
    size_t count = 0;
    QIN_RETURN_IF(api_.num_inputs(context_, &count));
    if (index >= count) return nullptr;
    const OrtValue* value = nullptr;
    QIN_RETURN_IF(api_.input(context_, index, &value));
    return qin::read(api_, value, tensor);
  }

 private:
  const Api& api_;
  const OrtKernelContext* context_;
};

OrtStatus* new_output(const Api& api, OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                      float** data) {
  OrtValue* value = nullptr;
  QIN_RETURN_IF(api.output(context, index, shape, rank, &value));
  void* memory = nullptr;
  QIN_RETURN_IF(api.data(value, &memory));
  *data = static_cast<float*>(memory);
  return nullptr;
}

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

struct AttentionKernel : Kernel {
  using Kernel::Kernel;
  static constexpr const char* kName = "SparseTargetAttention";
  enum Input : size_t { kTarget, kKey, kValue, kCandidateRows, kHistoryRows, kInputPart, kHistoryPart, kNumInputs };
  static constexpr size_t kNumRequired = kInputPart, kNumOutputs = 2, kNumRequiredOutputs = 1;
  static ElementType type_of(size_t input) {
    return input == kCandidateRows || input == kHistoryRows ? ElementType::kInt64 : ElementType::kFloat;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor inputs[kNumInputs];
    const Inputs given(api, context);
    for (size_t i = 0; i < kNumInputs; ++i) QIN_RETURN_IF(given.read(i, &inputs[i]));
    const Tensor &target = inputs[kTarget], &candidates = inputs[kCandidateRows], &history = inputs[kHistoryRows];
    const bool split = inputs[kInputPart].data || inputs[kInputPart].rank;
    AttentionArguments a{};
    if (target.rank != 2 || candidates.rank != 2 || history.rank != 2 || candidates.at(0) != history.at(0))
      return refuse(api, "qin.SparseTargetAttention: target (n, D), candidate_rows (U, N) and history_rows (U, H) "
                         "are needed");
    a.num_table_rows = target.at(0), a.item_width = target.at(1);
    a.num_users = candidates.at(0), a.num_candidates = candidates.at(1), a.history_length = history.at(1);
    a.input_width = split && inputs[kInputPart].rank == 2 ? inputs[kInputPart].at(1) : 0;
    if (!inputs[kKey].is(a.num_table_rows, a.item_width) || !inputs[kValue].is(a.num_table_rows, a.item_width))
      return refuse(api, "qin.SparseTargetAttention: key and value must have the shape of target");
    if (split && (!inputs[kInputPart].is(a.num_table_rows, a.input_width) ||
                  !inputs[kHistoryPart].is(a.num_table_rows, a.input_width)))
      return refuse(api, "qin.SparseTargetAttention: input_part and history_part must be (n, X) alike");
    a.target = target.as<float>(), a.key = inputs[kKey].as<float>(), a.value = inputs[kValue].as<float>();
    a.input_part = inputs[kInputPart].as<float>(), a.history_part = inputs[kHistoryPart].as<float>();
    a.candidate_rows = candidates.as<int64_t>(), a.history_rows = history.as<int64_t>();
    QIN_RETURN_IF(check_rows(api, "candidate_rows", a.candidate_rows, a.num_users * a.num_candidates, 1,
                             a.num_table_rows));
    QIN_RETURN_IF(
        check_rows(api, "history_rows", a.history_rows, a.num_users * a.history_length, 1, a.num_table_rows));

    int64_t shape[] = {candidates.shape[0], candidates.shape[1], target.shape[1]};
    QIN_RETURN_IF(new_output(api, context, 0, shape, 3, &a.pooled));
    if (split) {
      size_t num_outputs = 0;
      QIN_RETURN_IF(api.num_outputs(context, &num_outputs));
      if (num_outputs < 2) return refuse(api, "qin.SparseTargetAttention: input_part asks for the output partial");
      shape[2] = static_cast<int64_t>(a.input_width);
      QIN_RETURN_IF(new_output(api, context, 1, shape, 3, &a.partial));
    }
    if (a.num_users * a.num_candidates == 0) return nullptr;
    const Scratch scratch(allocator, instructions.attention_scratch(a, num_threads));
    if (!scratch.data()) return api.error(ErrorCode::kFail, "qin.SparseTargetAttention: no memory");
    const Pool pool{api, context};
    instructions.attention(a, {num_threads, &pool, Pool::run}, scratch.data());
    return nullptr;
  }
};

struct TowerKernel : Kernel {
  using Kernel::Kernel;
  static constexpr const char* kName = "QuadraticTower";
  enum Input : size_t {
    kTarget, kPooled, kCandidateRows, kLevels, kLikes, kViews,
    kWeight, kBias, kShift, kSlope, kOutputWeight, kOutputBias,
    kPartial, kLikesFirst, kViewsFirst, kWeightScale, kNumInputs,
  };
  static constexpr size_t kNumRequired = kPartial, kNumOutputs = 1, kNumRequiredOutputs = 1;
  static ElementType type_of(size_t input) {
    if (input == kCandidateRows || input == kLevels) return ElementType::kInt64;
    return input == kWeight ? ElementType::kUndefined : ElementType::kFloat;
  }
  static bool is_weight(size_t input) { return (input >= kWeight && input <= kOutputBias) || input == kWeightScale; }

  TowerShape shape{};
  char* packed = nullptr;  // null where the weights are not part of the graph

  ~TowerKernel() { free(packed); }

  OrtStatus* prepare(const OrtKernelInfo* info) {
    QIN_RETURN_IF(Kernel::prepare(info));
    size_t count = 0;
    QIN_RETURN_IF(api.num_inputs(info, &count));
    Tensor inputs[kNumInputs];
    for (size_t i = 0; i < kNumInputs && i < count; ++i) {
      if (!is_weight(i)) continue;
      int constant = 0;
      const OrtValue* value = nullptr;
      if (OrtStatus* failed = api.constant_input(info, i, &constant, &value)) {
        api.release(failed);
        constant = 0;
      }
      if (constant) QIN_RETURN_IF(read(api, value, &inputs[i]));
      if (!constant && i != kWeightScale) return nullptr;
    }
    if (inputs[kWeight].type == ElementType::kInt8 && !inputs[kWeightScale].rank) return nullptr;
    QIN_RETURN_IF(shape_of(inputs, &shape));
    return pack(inputs, shape, &packed);
  }

  OrtStatus* shape_of(const Tensor* inputs, TowerShape* shape) const {
    const Tensor &weight = inputs[kWeight], &shift = inputs[kShift], &scale = inputs[kWeightScale];
    if (weight.rank != 3 || shift.rank != 2)
      return refuse(api, "qin.QuadraticTower: weight (G, X, X) and shift (L, X) are needed");
    const size_t products = weight.at(0), layers = shift.at(0), width = shift.at(1);
    if (products != layers && products + 1 != layers)
      return refuse(api, "qin.QuadraticTower: %zu products do not go with %zu layers", products, layers);
    if (!weight.is(products, width, width) || !inputs[kBias].is(products, width))
      return refuse(api, "qin.QuadraticTower: weight must be (G, X, X) and bias (G, X) with X = %zu", width);
    if (!inputs[kSlope].is(layers, 1) || !inputs[kOutputWeight].is(width, 1) || !inputs[kOutputBias].is(1))
      return refuse(api, "qin.QuadraticTower: slope must be (L, 1), output_weight (X, 1) and output_bias (1)");
    shape->num_layers = layers, shape->num_products = products, shape->width = width;
    switch (weight.type) {
      case ElementType::kFloat: shape->precision = Precision::kFloat32; break;
      case ElementType::kBfloat16: shape->precision = Precision::kBfloat16; break;
      case ElementType::kInt8: shape->precision = Precision::kInt8; break;
      default: return refuse(api, "qin.QuadraticTower: weight must be float32, bfloat16 or int8");
    }
    if (shape->precision == Precision::kInt8 && !scale.is(products, width))
      return refuse(api, "qin.QuadraticTower: int8 weights need weight_scale (G, X)");
    return nullptr;
  }

  OrtStatus* pack(const Tensor* inputs, const TowerShape& shape, char** packed) const {
    const size_t size = instructions.packed_size(shape);
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, size)) return api.error(ErrorCode::kFail, "qin.QuadraticTower: no memory");
    *packed = static_cast<char*>(memory);
    const TowerWeights weights{
        inputs[kWeight].data,           inputs[kBias].as<float>(),         inputs[kShift].as<float>(),
        inputs[kSlope].as<float>(),     inputs[kOutputWeight].as<float>(), inputs[kOutputBias].as<float>(),
        inputs[kWeightScale].as<float>()};
    instructions.pack(shape, weights, *packed);
    return nullptr;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor inputs[kNumInputs];
    const Inputs given(api, context);
    for (size_t i = 0; i < kNumInputs; ++i)
      if (!packed || !is_weight(i)) QIN_RETURN_IF(given.read(i, &inputs[i]));
    TowerShape shape = this->shape;
    if (!packed) QIN_RETURN_IF(shape_of(inputs, &shape));
    TowerArguments a{};
    QIN_RETURN_IF(arguments_of(inputs, &shape, &a));
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

  OrtStatus* arguments_of(const Tensor* inputs, TowerShape* shape, TowerArguments* a) const {
    const Tensor &target = inputs[kTarget], &candidates = inputs[kCandidateRows];
    const Tensor &likes = inputs[kLikes], &views = inputs[kViews];
    if (target.rank != 2 || candidates.rank != 2 || likes.rank != 2 || views.rank != 2)
      return refuse(api, "qin.QuadraticTower: target (n, D), candidate_rows (U, N), likes and views (levels, E) "
                         "are needed");
    const size_t users = candidates.at(0), num_candidates = candidates.at(1), width = shape->width;
    shape->item_width = target.at(1), shape->embedding_dim = likes.at(1);
    if (views.at(1) != shape->embedding_dim || 2 * (shape->item_width + shape->embedding_dim) != width)
      return refuse(api, "qin.QuadraticTower: two levels of width %zu and two items of width %zu are not X = %zu",
                    shape->embedding_dim, shape->item_width, width);
    if (!inputs[kPooled].is(users, num_candidates, shape->item_width) ||
        !inputs[kLevels].is(users, num_candidates, 2))
      return refuse(api, "qin.QuadraticTower: pooled must be (U, N, D) and levels (U, N, 2)");
    if (shape->split() && (!inputs[kPartial].is(users, num_candidates, width) ||
                           !inputs[kLikesFirst].is(likes.at(0), width) || !inputs[kViewsFirst].is(views.at(0), width)))
      return refuse(api, "qin.QuadraticTower: with layer 1 split, partial must be (U, N, X), likes_first and "
                         "views_first (levels, X)");
    a->num_rows = users * num_candidates;
    a->num_table_rows = target.at(0), a->num_likes = likes.at(0), a->num_views = views.at(0);
    a->target = target.as<float>(), a->pooled = inputs[kPooled].as<float>();
    a->candidate_rows = candidates.as<int64_t>(), a->levels = inputs[kLevels].as<int64_t>();
    a->likes = likes.as<float>(), a->views = views.as<float>(), a->partial = inputs[kPartial].as<float>();
    a->likes_first = inputs[kLikesFirst].as<float>(), a->views_first = inputs[kViewsFirst].as<float>();
    QIN_RETURN_IF(check_rows(api, "candidate_rows", a->candidate_rows, a->num_rows, 1, a->num_table_rows));
    QIN_RETURN_IF(check_rows(api, "levels", a->levels, a->num_rows, 2, a->num_likes));
    return check_rows(api, "levels", a->levels + 1, a->num_rows, 2, a->num_views);
  }
};

uint64_t attention_created = 0, tower_created = 0;

// The interface of one operation, from what its kernel states.
template <class KernelType>
Op make_op(size_t num_threads, uint64_t* created) {
  Op op{};
  op.version = ort::kApiVersion;
  op.num_threads = num_threads;
  op.created = created;
  op.GetName = [](const ort::CustomOp*) { return KernelType::kName; };
  op.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };
  op.GetInputTypeCount = [](const ort::CustomOp*) -> size_t { return KernelType::kNumInputs; };
  op.GetInputType = [](const ort::CustomOp*, size_t index) { return KernelType::type_of(index); };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) {
    return index < KernelType::kNumRequired ? Characteristic::kRequired : Characteristic::kOptional;
  };
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return ort::MemoryType::kDefault; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return KernelType::kNumOutputs; };
  op.GetOutputType = [](const ort::CustomOp*, size_t) { return ElementType::kFloat; };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, size_t index) {
    return index < KernelType::kNumRequiredOutputs ? Characteristic::kRequired : Characteristic::kOptional;
  };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const ort::CustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](const ort::CustomOp*) { return 1; };
  op.GetStartVersion = op.GetEndVersion = [](const ort::CustomOp*) { return kDomainVersion; };
  op.CreateKernelV2 = [](const ort::CustomOp* self, const void* const* api, const OrtKernelInfo* info, void** kernel) {
    const Op& op = *static_cast<const Op*>(self);
    void* memory = calloc(1, sizeof(KernelType));
    if (!memory) return Api(api).error(ErrorCode::kFail, "qin: no memory for a kernel");
    KernelType* made = new (memory) KernelType(api, op);
    if (OrtStatus* failed = made->prepare(info)) {
      made->~KernelType();
      free(memory);
      return failed;
    }
    __atomic_fetch_add(op.created, 1, __ATOMIC_RELAXED);
    *kernel = made;
    return static_cast<OrtStatus*>(nullptr);
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return static_cast<const KernelType*>(kernel)->compute(context);
  };
  op.KernelDestroy = [](void* kernel) {
    static_cast<KernelType*>(kernel)->~KernelType();
    free(kernel);
  };
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
