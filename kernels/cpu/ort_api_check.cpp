// Proves ort_api.h by ONNX Runtime's own header: compiled with that on the include path, never linked.
#include <cstddef>

#include <onnxruntime_c_api.h>

#include "ort_api.h"

// A position of ort_api.h that is missing below does not compile.
#pragma GCC diagnostic error "-Wswitch"

namespace qin::ort {

#define QIN_ENTRY(name)                                                                             \
  case Entry::name:                                                                                 \
    static_assert(static_cast<size_t>(Entry::name) * sizeof(void*) == offsetof(OrtApi, name), #name); \
    break;

void check_entries(Entry entry) {
  switch (entry) {
    QIN_ENTRY(CreateStatus)
    QIN_ENTRY(CreateCustomOpDomain)
    QIN_ENTRY(CustomOpDomain_Add)
    QIN_ENTRY(AddCustomOpDomain)
    QIN_ENTRY(GetTensorMutableData)
    QIN_ENTRY(GetTensorElementType)
    QIN_ENTRY(GetDimensionsCount)
    QIN_ENTRY(GetDimensions)
    QIN_ENTRY(GetTensorTypeAndShape)
    QIN_ENTRY(KernelContext_GetInputCount)
    QIN_ENTRY(KernelContext_GetOutputCount)
    QIN_ENTRY(KernelContext_GetInput)
    QIN_ENTRY(KernelContext_GetOutput)
    QIN_ENTRY(ReleaseStatus)
    QIN_ENTRY(ReleaseTensorTypeAndShapeInfo)
    QIN_ENTRY(ReleaseAllocator)
    QIN_ENTRY(KernelContext_GetGPUComputeStream)
    QIN_ENTRY(KernelInfo_GetInputCount)
    QIN_ENTRY(HasSessionConfigEntry)
    QIN_ENTRY(GetSessionConfigEntry)
    QIN_ENTRY(KernelInfoGetConstantInput_tensor)
    QIN_ENTRY(KernelContext_ParallelFor)
    QIN_ENTRY(KernelContext_GetScratchBuffer)
    QIN_ENTRY(KernelInfoGetAllocator)
  }
}

#define QIN_FIELD(ours, theirs, name) static_assert(offsetof(ours, name) == offsetof(theirs, name), #theirs "." #name)
#define QIN_OP_FIELD(name) QIN_FIELD(CustomOp, OrtCustomOp, name)

QIN_OP_FIELD(version);
QIN_OP_FIELD(CreateKernel);
QIN_OP_FIELD(GetName);
QIN_OP_FIELD(GetExecutionProviderType);
QIN_OP_FIELD(GetInputType);
QIN_OP_FIELD(GetInputTypeCount);
QIN_OP_FIELD(GetOutputType);
QIN_OP_FIELD(GetOutputTypeCount);
QIN_OP_FIELD(KernelCompute);
QIN_OP_FIELD(KernelDestroy);
QIN_OP_FIELD(GetInputCharacteristic);
QIN_OP_FIELD(GetOutputCharacteristic);
QIN_OP_FIELD(GetInputMemoryType);
QIN_OP_FIELD(GetVariadicInputMinArity);
QIN_OP_FIELD(GetVariadicInputHomogeneity);
QIN_OP_FIELD(GetVariadicOutputMinArity);
QIN_OP_FIELD(GetVariadicOutputHomogeneity);
QIN_OP_FIELD(CreateKernelV2);
QIN_OP_FIELD(KernelComputeV2);
QIN_OP_FIELD(InferOutputShapeFn);
QIN_OP_FIELD(GetStartVersion);
QIN_OP_FIELD(GetEndVersion);
QIN_OP_FIELD(GetMayInplace);
QIN_OP_FIELD(ReleaseMayInplace);
QIN_OP_FIELD(GetAliasMap);
QIN_OP_FIELD(ReleaseAliasMap);
static_assert(sizeof(CustomOp) <= sizeof(OrtCustomOp), "OrtCustomOp only ever grows at its end");

QIN_FIELD(ApiBase, OrtApiBase, GetApi);
QIN_FIELD(ApiBase, OrtApiBase, GetVersionString);
QIN_FIELD(Allocator, OrtAllocator, version);
QIN_FIELD(Allocator, OrtAllocator, Alloc);
QIN_FIELD(Allocator, OrtAllocator, Free);
QIN_FIELD(Allocator, OrtAllocator, Info);

#define QIN_VALUE(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #theirs)

QIN_VALUE(ErrorCode::kFail, ORT_FAIL);
QIN_VALUE(ErrorCode::kInvalidArgument, ORT_INVALID_ARGUMENT);
QIN_VALUE(ElementType::kUndefined, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
QIN_VALUE(ElementType::kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
QIN_VALUE(ElementType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
QIN_VALUE(ElementType::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
QIN_VALUE(ElementType::kBfloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
QIN_VALUE(Characteristic::kRequired, INPUT_OUTPUT_REQUIRED);
QIN_VALUE(Characteristic::kOptional, INPUT_OUTPUT_OPTIONAL);
QIN_VALUE(MemoryType::kCpuInput, OrtMemTypeCPUInput);
QIN_VALUE(MemoryType::kDefault, OrtMemTypeDefault);
static_assert(sizeof(ElementType) == sizeof(ONNXTensorElementDataType), "passed and returned by value");
static_assert(sizeof(Characteristic) == sizeof(OrtCustomOpInputOutputCharacteristic), "returned by value");
static_assert(sizeof(MemoryType) == sizeof(OrtMemType), "passed and returned by value");
static_assert(sizeof(ErrorCode) == sizeof(OrtErrorCode), "passed by value");
static_assert(kApiVersion <= ORT_API_VERSION, "this header is older than the entries that are used");

}  // namespace qin::ort
