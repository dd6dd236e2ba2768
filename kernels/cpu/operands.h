// The operations as ONNX Runtime's custom ops, whatever runs them: their operands, the checks of what comes in, and what
// their kernels' lives have in common.
#pragma once

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

// The inputs of qin.SparseTargetAttention, by position.
struct AttentionOperands {
  static constexpr const char* kName = "SparseTargetAttention";
  enum Input : size_t { kTarget, kKey, kValue, kCandidateRows, kHistoryRows, kInputPart, kHistoryPart, kNumInputs };
  static constexpr size_t kNumRequired = kInputPart, kNumOutputs = 2, kNumRequiredOutputs = 1;
  static ElementType type_of(size_t input) {
    return input == kCandidateRows || input == kHistoryRows ? ElementType::kInt64 : ElementType::kFloat;
  }

  // All but the outputs; what the rows hold is not looked at.
  static OrtStatus* arguments_of(const Api& api, const Tensor* inputs, AttentionArguments* a) {
    const Tensor &target = inputs[kTarget], &candidates = inputs[kCandidateRows], &history = inputs[kHistoryRows];
    const bool split = inputs[kInputPart].data || inputs[kInputPart].rank;
    if (target.rank != 2 || candidates.rank != 2 || history.rank != 2 || candidates.at(0) != history.at(0))
      return refuse(api, "qin.SparseTargetAttention: target (n, D), candidate_rows (U, N) and history_rows (U, H) "
                         "are needed");
    a->num_table_rows = target.at(0), a->item_width = target.at(1);
    a->num_users = candidates.at(0), a->num_candidates = candidates.at(1), a->history_length = history.at(1);
    a->input_width = split && inputs[kInputPart].rank == 2 ? inputs[kInputPart].at(1) : 0;
    if (!inputs[kKey].is(a->num_table_rows, a->item_width) || !inputs[kValue].is(a->num_table_rows, a->item_width))
      return refuse(api, "qin.SparseTargetAttention: key and value must have the shape of target");
    if (split && (!inputs[kInputPart].is(a->num_table_rows, a->input_width) ||
                  !inputs[kHistoryPart].is(a->num_table_rows, a->input_width)))
      return refuse(api, "qin.SparseTargetAttention: input_part and history_part must be (n, X) alike");
    a->target = target.as<float>(), a->key = inputs[kKey].as<float>(), a->value = inputs[kValue].as<float>();
    a->input_part = inputs[kInputPart].as<float>(), a->history_part = inputs[kHistoryPart].as<float>();
    a->candidate_rows = candidates.as<int64_t>(), a->history_rows = history.as<int64_t>();
    return nullptr;
  }

  static OrtStatus* new_outputs(const Api& api, OrtKernelContext* context, const Tensor* inputs,
                                AttentionArguments* a) {
    const Tensor &target = inputs[kTarget], &candidates = inputs[kCandidateRows];
    int64_t shape[] = {candidates.shape[0], candidates.shape[1], target.shape[1]};
    QIN_RETURN_IF(new_output(api, context, 0, shape, 3, &a->pooled));
    if (!inputs[kInputPart].data && !inputs[kInputPart].rank) return nullptr;
    size_t num_outputs = 0;
    QIN_RETURN_IF(api.num_outputs(context, &num_outputs));
    if (num_outputs < 2) return refuse(api, "qin.SparseTargetAttention: input_part asks for the output partial");
    shape[2] = static_cast<int64_t>(a->input_width);
    return new_output(api, context, 1, shape, 3, &a->partial);
  }
};

// The inputs of qin.QuadraticTower, by position.
struct TowerOperands {
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

  // The weights that the graph holds, if it holds all of them.
  static OrtStatus* constant_weights(const Api& api, const OrtKernelInfo* info, Tensor* inputs, bool* all) {
    *all = false;
    size_t count = 0;
    QIN_RETURN_IF(api.num_inputs(info, &count));
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
    *all = inputs[kWeight].type != ElementType::kInt8 || inputs[kWeightScale].rank;
    return nullptr;
  }

  static TowerWeights weights_of(const Tensor* inputs) {
    return {inputs[kWeight].data,           inputs[kBias].as<float>(),         inputs[kShift].as<float>(),
            inputs[kSlope].as<float>(),     inputs[kOutputWeight].as<float>(), inputs[kOutputBias].as<float>(),
            inputs[kWeightScale].as<float>()};
  }

  static OrtStatus* shape_of(const Api& api, const Tensor* inputs, TowerShape* shape) {
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

  // All but the output; what the rows hold is not looked at.
  static OrtStatus* arguments_of(const Api& api, const Tensor* inputs, TowerShape* shape, TowerArguments* a) {
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
    return nullptr;
  }
};

// The interface of one operation, from what its kernel states.
//
// Op is a CustomOp with `created`, a counter of kernels; KernelType is made from the API's table and an Op, and has
// `prepare` and `compute`.
template <class KernelType, class Op>
void set_interface(Op* interface) {
  Op& op = *interface;
  op.version = ort::kApiVersion;
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
}

}  // namespace
}  // namespace qin
