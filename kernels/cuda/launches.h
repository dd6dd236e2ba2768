// What the operations launch. Functions return null, or what is wrong; addresses are the device's but for `pack_tower`'s.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels.h"

namespace qin::cuda {

// A grid has no more blocks in its second and third direction.
constexpr size_t kMostBlocks = 65535, kMostUsers = kMostBlocks, kMostRows = 16 * (kMostBlocks - 4);

const char* prepare_attention();
const char* attend(const AttentionArguments& arguments, const Device& device, cudaStream_t stream);

size_t packed_size(const TowerShape& shape, Product product);
void pack_tower(const TowerShape& shape, Product product, const TowerWeights& weights, char* packed);
size_t tower_scratch(const TowerShape& shape, Product product, size_t num_rows);
const char* prepare_tower(const Device& device, Product product);
const char* run_tower(const TowerShape& shape, Product product, const Device& device, const char* packed,
                      const TowerArguments& arguments, char* scratch, cudaStream_t stream);

}  // namespace qin::cuda
