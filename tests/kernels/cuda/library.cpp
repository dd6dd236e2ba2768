// The CUDA library on an emulated GPU, as a library that ONNX Runtime takes for one of the CPU: one run at a time.
#include "attention.cu"
#include "ops.cu"
#include "tower.cu"
