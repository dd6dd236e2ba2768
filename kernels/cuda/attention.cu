#include "attention_run.h"
#include "launches.h"

namespace qin::cuda {

const char* prepare_attention() { return prepare_attention_kernels(); }

const char* attend(const AttentionArguments& arguments, const Device& device, cudaStream_t stream) {
  return run_attention(arguments, device, stream);
}

}  // namespace qin::cuda
