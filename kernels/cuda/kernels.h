// What the CUDA kernels offer to the operations. Arguments are those of the CPU's kernels, with addresses on the device;
// letters as there: U users, N candidates of each, D item width, X input width, L layers, G products.
#pragma once

#include <stddef.h>

#include "../cpu/kernels.h"

namespace qin::cuda {

// What a launch is shaped by.
struct Device {
  unsigned num_processors;
  size_t shared_memory;  // that one block may have
};

// How the tower's products are computed: each Precision in its own way, float32 in either of two.
enum class Product { kFloat32, kTf32, kBfloat16, kInt8 };

}  // namespace qin::cuda
