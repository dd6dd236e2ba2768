#include "launches.h"
#include "tower_run.h"

namespace qin::cuda {

size_t packed_size(const TowerShape& shape, Product product) { return PackedLayout(shape, product).size; }

void pack_tower(const TowerShape& shape, Product product, const TowerWeights& weights, char* packed) {
  pack(shape, product, weights, packed);
}

size_t tower_scratch(const TowerShape& shape, Product product, size_t num_rows) {
  return ScratchLayout(shape, product, num_rows).size;
}

const char* prepare_tower(const Device& device, Product product) { return prepare_layers(device, product); }

const char* run_tower(const TowerShape& shape, Product product, const Device& device, const char* packed,
                      const TowerArguments& arguments, char* scratch, cudaStream_t stream) {
  return TowerRun(shape, product, device, packed, arguments, scratch, stream).run();
}

}  // namespace qin::cuda
