// Runs the CUDA kernels' own sources against a plain reference in double precision, on a GPU that emulator.h plays.
//
//   emulated [--quick]
//
// Operands are vectors of exactly their size; scratch has exactly the size that a run asks for, and holds NaN.

#include "../cases.h"
#include "attention_run.h"
#include "tower_run.h"

namespace {

using qin::cuda::Device;
using qin::cuda::Product;
using qin::cuda::Size;

[[noreturn]] void fail(const std::string& what, const char* output, size_t index, double got, double wanted) {
  printf("%s: %s[%zu] is %.9g, not %.9g\n", what.c_str(), output, index, got, wanted);
  exit(1);
}

void stop_at(const char* error) {
  if (!error) return;
  printf("%s\n", error);
  exit(1);
}

// Memory that starts where a GPU's would.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t size) : memory_(static_cast<char*>(aligned_alloc(256, qin::cuda::up(size, 256))), free) {
    memset(memory_.get(), 0xff, size);
  }
  char* data() { return memory_.get(); }

 private:
  std::unique_ptr<char, void (*)(void*)> memory_;
};

// A row that holds an infinity gives NaN where float32 is made of several products: see docs/kernels.md.
bool same(double got, double wanted, double tolerance, bool finite) {
  return Expected::same(got, wanted, tolerance) || (!finite && isnan(got));
}

struct Counts {
  size_t num_narrow = 0, num_wide = 0, num_small = 0, num_middle = 0, num_large = 0;
};

void check(const AttentionCase& given, const Device& device, Counts& counts) {
  Outputs outputs = given.outputs();
  stop_at(qin::cuda::run_attention(given.arguments(outputs), device, nullptr));
  const std::vector<Expected> expected = given.expected();
  for (size_t output = 0; output < expected.size(); ++output)
    for (size_t i = 0; i < outputs[output].size(); ++i)
      if (const Expected& of = expected[output]; !Expected::same(outputs[output][i], of.values[i], of.tolerance))
        fail(given.text(), of.name, i, outputs[output][i], of.values[i]);
  ++(device.num_processors > 100 ? counts.num_narrow : counts.num_wide);
}

double tolerance_of(Product product, double given) {
  return product == Product::kTf32 && qin::cuda::kTensorCores ? 1e-3 : given;
}

const char* text_of(Product product) {
  return product == Product::kFloat32 ? "float32" : product == Product::kTf32 ? "TF32" : "as stored";
}

// Row 2 of a case of 7 rows or more holds an infinity.
bool is_finite(const TowerCase& given, size_t row) { return given.shape.rows() < 7 || row != 2; }

void check(const TowerCase& given, Product product, const Device& device, Counts& counts) {
  const qin::TowerShape shape = given.tower_shape();
  const qin::cuda::PackedLayout layout(shape, product);
  DeviceMemory packed(layout.size);
  qin::cuda::pack(shape, product, given.weights(), packed.data());
  DeviceMemory scratch(qin::cuda::ScratchLayout(shape, product, given.shape.rows()).size);
  Outputs outputs = given.outputs();
  const qin::TowerArguments arguments = given.arguments(outputs);
  stop_at(qin::cuda::TowerRun(shape, product, device, packed.data(), arguments, scratch.data(), nullptr).run());
  const Expected expected = given.expected()[0];
  const double tolerance = tolerance_of(product, expected.tolerance);
  for (size_t row = 0; row < given.shape.rows(); ++row)
    if (!same(outputs[0][row], expected.values[row], tolerance, is_finite(given, row)))
      fail(given.text() + " by " + text_of(product), "scores", row, outputs[0][row], expected.values[row]);
  const Size size = qin::cuda::size_for(device, given.shape.rows(), layout.padded);
  ++(size == Size::kSmall ? counts.num_small : size == Size::kMiddle ? counts.num_middle : counts.num_large);
}

// A chip so small that any number of rows is worth the largest share, and one so large that none is.
constexpr Device kSmallChip = {1, 100 * 1024}, kLargeChip = {4096, 100 * 1024};

void check_attention(const Shape& shape, Counts& counts) {
  const AttentionCase given(shape);
  for (const Device& device : {kSmallChip, kLargeChip}) check(given, device, counts);
}

void check_tower(const Shape& shape, Counts& counts) {
  const TowerCase floats(shape, Precision::kFloat32), bfloats(shape, Precision::kBfloat16);
  const TowerCase integers(shape, Precision::kInt8);
  for (const Device& device : {kSmallChip, kLargeChip}) {
    check(floats, Product::kFloat32, device, counts), check(floats, Product::kTf32, device, counts);
    check(bfloats, Product::kBfloat16, device, counts), check(integers, Product::kInt8, device, counts);
  }
}

}  // namespace

int main(int num_arguments, char** arguments) {
  const bool quick = num_arguments > 1 && !strcmp(arguments[1], "--quick");
  Counts counts;
  // U, N, H, E, D, L, split
  std::vector<Shape> attention = {{1, 1, 5, 1, 2, 0, false},  {2, 17, 64, 4, 9, 0, true},  {1, 3, 0, 4, 6, 0, true},
                                  {3, 7, 65, 17, 40, 0, true}, {1, 40, 130, 8, 70, 0, false}, {1, 33, 3, 32, 96, 0, true}};
  std::vector<Shape> tower = {{1, 1, 0, 1, 2, 2, false},  {2, 9, 0, 4, 9, 2, true},   {1, 100, 0, 17, 40, 3, true},
                              {1, 34, 0, 4, 6, 2, false}, {1, 3, 0, 1, 2, 1, true},   {3, 7, 0, 40, 91, 2, true}};
  if (!quick) {
    for (size_t history : {1, 63, 200}) attention.push_back({2, 50, history, 20, 150, 0, true});
    attention.push_back({1, 130, 64, 128, 384, 0, true});
    tower.push_back({1, 16, 0, 64, 192, 3, true}), tower.push_back({1, 65, 0, 30, 100, 4, true});
    tower.push_back({1, 7, 0, 128, 384, 4, true}), tower.push_back({2, 100, 0, 3, 13, 4, false});
    tower.push_back({1, 33, 0, 128, 384, 2, true});
  }
  for (const Shape& shape : attention) check_attention(shape, counts);
  for (const Shape& shape : tower) check_tower(shape, counts);
  printf("architecture %d: attention %zu times narrow, %zu wide; the tower %zu times small, %zu middle, %zu large\n",
         QIN_EMULATED_ARCHITECTURE, counts.num_narrow, counts.num_wide, counts.num_small, counts.num_middle,
         counts.num_large);
}
