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

// A row that holds an infinity gives NaN where float32 is made of several products.
bool may_be_nan(const TowerCase& given, Product product, size_t row) {
  return product == Product::kFloat32 && qin::cuda::kTensorCores && given.shape.rows() >= 7 && row == 2;
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

// A tower on the device: packed once, run with any arguments.
class Tower {
 public:
  Tower(const TowerCase& given, Product product)
      : shape_(given.tower_shape()), product_(product), packed_(qin::cuda::PackedLayout(shape_, product).size) {
    qin::cuda::pack(shape_, product, given.weights(), packed_.data());
  }

  void run(const qin::TowerArguments& arguments, const Device& device) {
    DeviceMemory scratch(qin::cuda::ScratchLayout(shape_, product_, arguments.num_rows).size);
    stop_at(qin::cuda::TowerRun(shape_, product_, device, packed_.data(), arguments, scratch.data(), nullptr).run());
  }

  Size size(const Device& device, size_t num_rows) const {
    return qin::cuda::size_for(device, num_rows, qin::cuda::PackedLayout(shape_, product_).padded);
  }

 private:
  const qin::TowerShape shape_;
  const Product product_;
  DeviceMemory packed_;
};

// Without its last row, a run must give the others the same score to the bit, as long as the share stays the same.
void check_alone(const TowerCase& given, Tower& tower, const Device& device, const Outputs& together) {
  const size_t num_rows = given.shape.rows() - 1;
  if (!num_rows || tower.size(device, num_rows) != tower.size(device, num_rows + 1)) return;
  Outputs outputs = given.outputs();
  qin::TowerArguments arguments = given.arguments(outputs);
  arguments.num_rows = num_rows;
  tower.run(arguments, device);
  for (size_t row = 0; row < num_rows; ++row)
    if (memcmp(&outputs[0][row], &together[0][row], sizeof(float)))
      fail(given.text() + " without its last row", "scores", row, outputs[0][row], together[0][row]);
  if (!isnan(outputs[0][num_rows])) fail(given.text(), "a row that was not asked for", num_rows, 0, NAN);
}

void check(const TowerCase& given, Product product, const Device& device, Counts& counts) {
  Tower tower(given, product);
  Outputs outputs = given.outputs();
  tower.run(given.arguments(outputs), device);
  const Expected expected = given.expected()[0];
  const double tolerance = tolerance_of(product, expected.tolerance);
  for (size_t row = 0; row < given.shape.rows(); ++row)
    if (const double got = outputs[0][row], wanted = expected.values[row];
        !Expected::same(got, wanted, tolerance) && !(isnan(got) && may_be_nan(given, product, row)))
      fail(given.text() + " by " + text_of(product), "scores", row, got, wanted);
  check_alone(given, tower, device, outputs);
  const Size size = tower.size(device, given.shape.rows());
  ++(size == Size::kSmall ? counts.num_small : size == Size::kMiddle ? counts.num_middle : counts.num_large);
}

// Rows that lie in no table: what they make NaN, and that nothing else changes.
void check_unknown_rows() {
  const Device device = {1, 100 * 1024};
  AttentionCase attention({2, 9, 11, 4, 9, 0, true});
  Outputs before = attention.outputs(), after = attention.outputs();
  stop_at(qin::cuda::run_attention(attention.arguments(before), device, nullptr));
  attention.candidate_rows[4] = kTableRows, attention.history_rows[11 + 3] = -static_cast<int64_t>(kTableRows) - 1;
  stop_at(qin::cuda::run_attention(attention.arguments(after), device, nullptr));
  for (size_t output = 0; output < after.size(); ++output)
    for (size_t i = 0; i < after[output].size(); ++i) {
      const size_t row = i / (after[output].size() / 18);
      const bool unknown = row == 4 || row >= 9;
      if (unknown ? !isnan(after[output][i]) : memcmp(&after[output][i], &before[output][i], sizeof(float)) != 0)
        fail("unknown rows of attention", "output", i, after[output][i], before[output][i]);
    }
  for (size_t spoilt = 0; spoilt < 3; ++spoilt) {
    TowerCase given({1, 6, 0, 4, 9, 2, true}, Precision::kFloat32);
    Tower tower(given, Product::kFloat32);
    Outputs before = given.outputs(), after = given.outputs();
    tower.run(given.arguments(before), device);
    if (spoilt == 0) given.candidate_rows[3] = kTableRows;
    if (spoilt == 1) given.levels[6] = kLikes;
    if (spoilt == 2) given.levels[7] = -static_cast<int64_t>(kViews) - 1;
    tower.run(given.arguments(after), device);
    for (size_t row = 0; row < 6; ++row)
      if (row == 3 ? !isnan(after[0][row]) : memcmp(&after[0][row], &before[0][row], sizeof(float)) != 0)
        fail("unknown rows of the tower", "scores", row, after[0][row], before[0][row]);
  }
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
  check_unknown_rows();
  // U, N, H, E, D, L, split
  std::vector<Shape> attention = {{1, 1, 5, 1, 2, 0, false},  {2, 17, 64, 4, 9, 0, true},  {1, 3, 0, 4, 6, 0, true},
                                  {3, 7, 65, 17, 40, 0, true}, {1, 40, 130, 8, 70, 0, false},
                                  {1, 33, 3, 32, 96, 0, true}, {1, 3, 5, 20, 300, 0, false}};
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
