// The part of ONNX Runtime's C API that the kernels use, declared here because no wheel carries its headers.
//
// OrtApi is a table of function pointers that only ever grows at its end, so an entry is its position in that table.
// ort_api_check.cpp proves every position, field and value below against the official header where one can be had.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtValue;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtTensorTypeAndShapeInfo;

namespace qin::ort {

// The version of the API that is asked for: ONNX Runtime 1.18, the first with all that is used.
constexpr uint32_t kApiVersion = 18;

struct ApiBase {
  const void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct Allocator {
  uint32_t version;
  void* (*Alloc)(Allocator* self, size_t size);
  void (*Free)(Allocator* self, void* memory);
  const void* (*Info)(const Allocator* self);
};

enum class ErrorCode : int { kFail = 1, kInvalidArgument = 2 };

enum class ElementType : int { kUndefined = 0, kFloat = 1, kInt8 = 3, kInt64 = 7, kBfloat16 = 16 };

enum class Characteristic : int { kRequired = 0, kOptional = 1 };

enum class MemoryType : int { kCpuInput = -2, kDefault = 0 };

// Positions in the table.
enum class Entry : size_t {
  CreateStatus = 0,
  CreateCustomOpDomain = 26,
  CustomOpDomain_Add = 27,
  AddCustomOpDomain = 28,
  GetTensorMutableData = 51,
  GetTensorElementType = 60,
  GetDimensionsCount = 61,
  GetDimensions = 62,
  GetTensorTypeAndShape = 65,
  KernelContext_GetInputCount = 88,
  KernelContext_GetOutputCount = 89,
  KernelContext_GetInput = 90,
  KernelContext_GetOutput = 91,
  ReleaseStatus = 93,
  ReleaseTensorTypeAndShapeInfo = 99,
  ReleaseAllocator = 132,
  KernelContext_GetGPUComputeStream = 193,
  KernelInfo_GetInputCount = 230,
  HasSessionConfigEntry = 237,
  GetSessionConfigEntry = 238,
  KernelInfoGetConstantInput_tensor = 249,
  KernelContext_ParallelFor = 274,
  KernelContext_GetScratchBuffer = 277,
  KernelInfoGetAllocator = 278,
};

// The struct that ONNX Runtime knows as OrtCustomOp: what an operation is and how its kernels are made and run.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void* const* api, const OrtKernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t index);
  MemoryType (*GetInputMemoryType)(const CustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  OrtStatus* (*CreateKernelV2)(const CustomOp*, const void* const* api, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const CustomOp*, void* context);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int** input_index, int** output_index);
  void (*ReleaseMayInplace)(int* input_index, int* output_index);
  size_t (*GetAliasMap)(int** input_index, int** output_index);
  void (*ReleaseAliasMap)(int* input_index, int* output_index);
};

// The table with the types of its entries put back. A null status means success.
class Api {
 public:
  explicit Api(const void* const* table) : table_(table) {}

  OrtStatus* error(ErrorCode code, const char* message) const {
    return at<OrtStatus* (*)(ErrorCode, const char*)>(Entry::CreateStatus)(code, message);
  }
  void release(OrtStatus* status) const { at<void (*)(OrtStatus*)>(Entry::ReleaseStatus)(status); }

  OrtStatus* create_domain(const char* name, OrtCustomOpDomain** domain) const {
    return at<OrtStatus* (*)(const char*, OrtCustomOpDomain**)>(Entry::CreateCustomOpDomain)(name, domain);
  }
  OrtStatus* add_op(OrtCustomOpDomain* domain, const CustomOp* op) const {
    return at<OrtStatus* (*)(OrtCustomOpDomain*, const CustomOp*)>(Entry::CustomOpDomain_Add)(domain, op);
  }
  OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return at<OrtStatus* (*)(OrtSessionOptions*, OrtCustomOpDomain*)>(Entry::AddCustomOpDomain)(options, domain);
  }
  OrtStatus* has_config(const OrtSessionOptions* options, const char* key, int* found) const {
    return at<OrtStatus* (*)(const OrtSessionOptions*, const char*, int*)>(Entry::HasSessionConfigEntry)(
        options, key, found);
  }
  OrtStatus* config(const OrtSessionOptions* options, const char* key, char* value, size_t* size) const {
    return at<OrtStatus* (*)(const OrtSessionOptions*, const char*, char*, size_t*)>(Entry::GetSessionConfigEntry)(
        options, key, value, size);
  }

  OrtStatus* constant_input(const OrtKernelInfo* info, size_t index, int* constant, const OrtValue** value) const {
    return at<OrtStatus* (*)(const OrtKernelInfo*, size_t, int*, const OrtValue**)>(
        Entry::KernelInfoGetConstantInput_tensor)(info, index, constant, value);
  }
  OrtStatus* num_inputs(const OrtKernelInfo* info, size_t* count) const {
    return at<OrtStatus* (*)(const OrtKernelInfo*, size_t*)>(Entry::KernelInfo_GetInputCount)(info, count);
  }
  OrtStatus* allocator(const OrtKernelInfo* info, Allocator** allocator) const {
    return at<OrtStatus* (*)(const OrtKernelInfo*, MemoryType, Allocator**)>(Entry::KernelInfoGetAllocator)(
        info, MemoryType::kDefault, allocator);
  }
  void release(Allocator* allocator) const { at<void (*)(Allocator*)>(Entry::ReleaseAllocator)(allocator); }

  OrtStatus* num_inputs(const OrtKernelContext* context, size_t* count) const {
    return at<OrtStatus* (*)(const OrtKernelContext*, size_t*)>(Entry::KernelContext_GetInputCount)(context, count);
  }
  OrtStatus* num_outputs(const OrtKernelContext* context, size_t* count) const {
    return at<OrtStatus* (*)(const OrtKernelContext*, size_t*)>(Entry::KernelContext_GetOutputCount)(context, count);
  }
  OrtStatus* input(const OrtKernelContext* context, size_t index, const OrtValue** value) const {
    return at<OrtStatus* (*)(const OrtKernelContext*, size_t, const OrtValue**)>(Entry::KernelContext_GetInput)(
        context, index, value);
  }
  OrtStatus* output(OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                    OrtValue** value) const {
    return at<OrtStatus* (*)(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(
        Entry::KernelContext_GetOutput)(context, index, shape, rank, value);
  }
  OrtStatus* parallel_for(const OrtKernelContext* context, void (*task)(void*, size_t), size_t num_tasks,
                          void* data) const {
    return at<OrtStatus* (*)(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(
        Entry::KernelContext_ParallelFor)(context, task, num_tasks, 0, data);
  }

  OrtStatus* stream(const OrtKernelContext* context, void** stream) const {
    return at<OrtStatus* (*)(const OrtKernelContext*, void**)>(Entry::KernelContext_GetGPUComputeStream)(context,
                                                                                                          stream);
  }
  // Of the arena that the memory description names, in the order of the run's stream; `Allocator::Free` gives it back.
  OrtStatus* scratch(const OrtKernelContext* context, const void* memory_info, size_t size, void** memory) const {
    return at<OrtStatus* (*)(const OrtKernelContext*, const void*, size_t, void**)>(
        Entry::KernelContext_GetScratchBuffer)(context, memory_info, size, memory);
  }

  OrtStatus* data(const OrtValue* value, void** data) const {
    return at<OrtStatus* (*)(OrtValue*, void**)>(Entry::GetTensorMutableData)(const_cast<OrtValue*>(value), data);
  }
  OrtStatus* info(const OrtValue* value, OrtTensorTypeAndShapeInfo** info) const {
    return at<OrtStatus* (*)(const OrtValue*, OrtTensorTypeAndShapeInfo**)>(Entry::GetTensorTypeAndShape)(value, info);
  }
  OrtStatus* type(const OrtTensorTypeAndShapeInfo* info, ElementType* type) const {
    return at<OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, ElementType*)>(Entry::GetTensorElementType)(info, type);
  }
  OrtStatus* rank(const OrtTensorTypeAndShapeInfo* info, size_t* rank) const {
    return at<OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, size_t*)>(Entry::GetDimensionsCount)(info, rank);
  }
  OrtStatus* shape(const OrtTensorTypeAndShapeInfo* info, int64_t* shape, size_t rank) const {
    return at<OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>(Entry::GetDimensions)(
        info, shape, rank);
  }
  void release(OrtTensorTypeAndShapeInfo* info) const {
    at<void (*)(OrtTensorTypeAndShapeInfo*)>(Entry::ReleaseTensorTypeAndShapeInfo)(info);
  }

 private:
  template <class Function>
  Function at(Entry entry) const {
    return reinterpret_cast<Function>(const_cast<void*>(table_[static_cast<size_t>(entry)]));
  }

  const void* const* table_;
};

}  // namespace qin::ort
