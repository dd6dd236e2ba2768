// Cases of both operations: random operands, and what a plain reference in double precision makes of them.
//
// Letters as in kernels.h: U users, N candidates of each, H history length, D item width, E embedding_dim, L layers.
#pragma once

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

using qin::Precision;

constexpr size_t kTableRows = 37, kLikes = 11, kViews = 13;

struct Shape {
  size_t users, candidates, history, embedding_dim, item_width, layers;
  bool split;

  size_t rows() const { return users * candidates; }
  size_t width() const { return 2 * (embedding_dim + item_width); }
  size_t products() const { return layers - split; }
  std::string text() const {
    char text[160];
    snprintf(text, sizeof text, "U %zu, N %zu, H %zu, E %zu, D %zu, L %zu%s", users, candidates, history, embedding_dim,
             item_width, layers, split ? ", layer 1 split" : "");
    return text;
  }
};
// Random numbers of variance 1, the same on every machine.
class Source {
 public:
  explicit Source(const Shape& shape) : engine_(static_cast<unsigned>(shape.rows() * 31 + shape.width())) {}

  std::vector<float> numbers(size_t count, float scale = 1) {
    std::vector<float> numbers(count);
    for (float& number : numbers) number = (static_cast<float>(engine_() >> 8) / 8388608.0f - 1.0f) * 1.732f * scale;
    return numbers;
  }

  // Places in a table, the first of them its end.
  std::vector<int64_t> places(size_t count, size_t num_rows) {
    const int64_t end = static_cast<int64_t>(num_rows);
    std::vector<int64_t> places(count);
    for (int64_t& place : places) place = static_cast<int64_t>(engine_() % (2 * num_rows)) - end;
    if (count > 0) places[0] = end - 1;
    if (count > 1) places[count - 1] = -1;
    if (count > 2) places[1] = -end;
    return places;
  }

 private:
  std::mt19937 engine_;
};

template <class Number>
const Number* row_of(const std::vector<Number>& table, int64_t row, size_t num_rows, size_t width) {
  return table.data() + static_cast<size_t>(row < 0 ? row + static_cast<int64_t>(num_rows) : row) * width;
}

// What a case must give, and how far from it a kernel may be.
struct Expected {
  const char* name;
  std::vector<double> values;
  double tolerance;

  void allow(double relative) {
    tolerance = relative;
    for (double value : values) tolerance = std::max(tolerance, relative * fabs(value));
  }
  static bool same(double got, double wanted, double tolerance) {
    return got == wanted || (isnan(got) && isnan(wanted)) || fabs(got - wanted) <= tolerance;
  }
};

using Outputs = std::vector<std::vector<float>>;

struct AttentionCase {
  Shape shape;
  std::vector<float> target, key, value, input_part, history_part;
  std::vector<int64_t> candidate_rows, history_rows;

  explicit AttentionCase(const Shape& shape) : shape(shape) {
    Source source(shape);
    const size_t width = shape.item_width;
    target = source.numbers(kTableRows * width);
    key = source.numbers(kTableRows * width, 1 / sqrtf(static_cast<float>(width)));
    value = source.numbers(kTableRows * width);
    if (shape.split) {
      input_part = source.numbers(kTableRows * shape.width());
      history_part = source.numbers(kTableRows * shape.width());
    }
    candidate_rows = source.places(shape.rows(), kTableRows);
    history_rows = source.places(shape.users * shape.history, kTableRows);
  }

  std::string text() const { return "attention, " + shape.text(); }

  std::vector<Expected> expected() const {
    std::vector<Expected> expected = {{"pooled", sums(target, value, shape.item_width), 0}};
    if (shape.split) expected.push_back({"partial", sums(input_part, history_part, shape.width()), 0});
    for (Expected& output : expected) output.allow(4e-6);
    return expected;
  }

  Outputs outputs() const {
    Outputs outputs(1 + shape.split);
    outputs[0].assign(shape.rows() * shape.item_width, NAN);
    if (shape.split) outputs[1].assign(shape.rows() * shape.width(), NAN);
    return outputs;
  }

  qin::AttentionArguments arguments(Outputs& outputs) const {
    const auto part = [this](auto& numbers) { return shape.split ? numbers.data() : nullptr; };
    return {target.data(), key.data(), value.data(), part(input_part), part(history_part), candidate_rows.data(),
            history_rows.data(), outputs[0].data(), part(outputs.back()), kTableRows, shape.users, shape.candidates,
            shape.history, shape.item_width, shape.split ? shape.width() : 0};
  }

 private:
  // own[candidates] + relu(target[candidates] key[history]^T) seen[history]
  std::vector<double> sums(const std::vector<float>& own, const std::vector<float>& seen, size_t width) const {
    std::vector<double> sums(shape.rows() * width);
    for (size_t row = 0; row < shape.rows(); ++row) {
      const float* candidate = row_of(target, candidate_rows[row], kTableRows, shape.item_width);
      const float* residual = row_of(own, candidate_rows[row], kTableRows, width);
      double* sum = sums.data() + row * width;
      std::copy(residual, residual + width, sum);
      for (size_t h = 0; h < shape.history; ++h) {
        const int64_t place = history_rows[row / shape.candidates * shape.history + h];
        const float* other = row_of(key, place, kTableRows, shape.item_width);
        double weight = 0;
        for (size_t i = 0; i < shape.item_width; ++i) weight += double{candidate[i]} * other[i];
        if (weight <= 0) continue;
        const float* item = row_of(seen, place, kTableRows, width);
        for (size_t i = 0; i < width; ++i) sum[i] += weight * item[i];
      }
    }
    return sums;
  }
};

inline float rounded_to_bfloat16(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  bits = isnan(number) ? 0x7fc00000u : (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
  memcpy(&number, &bits, sizeof bits);
  return number;
}

inline const char* text_of(Precision precision) {
  return precision == Precision::kInt8 ? "int8" : precision == Precision::kBfloat16 ? "bfloat16" : "float32";
}

struct TowerCase {
  Shape shape;
  Precision precision;
  std::vector<float> target, pooled, likes, views, bias, shift, slope, output_weight, output_bias;
  std::vector<float> partial, likes_first, views_first, weight_scale;
  std::vector<int64_t> candidate_rows, levels;
  std::vector<unsigned char> weight;   // in the precision
  std::vector<float> weight_meant;     // what it stands for, without the scale of int8

  TowerCase(const Shape& shape, Precision precision) : shape(shape), precision(precision) {
    Source source(shape);
    const size_t rows = shape.rows(), width = shape.width(), e = shape.embedding_dim, d = shape.item_width;
    const float even = 1 / sqrtf(static_cast<float>(width));
    target = source.numbers(kTableRows * d);
    pooled = source.numbers(rows * d);
    likes = source.numbers(kLikes * e), views = source.numbers(kViews * e);
    weight_meant = source.numbers(shape.products() * width * width, 0.3f * even);
    bias = source.numbers(shape.products() * width, 0.1f), shift = source.numbers(shape.layers * width, 0.1f);
    slope = source.numbers(shape.layers);
    output_weight = source.numbers(width, even), output_bias = source.numbers(1);
    candidate_rows = source.places(rows, kTableRows);
    levels = std::vector<int64_t>(2 * rows);
    const std::vector<int64_t> of_likes = source.places(rows, kLikes), of_views = source.places(rows, kViews);
    for (size_t row = 0; row < rows; ++row) levels[2 * row] = of_likes[row], levels[2 * row + 1] = of_views[row];
    if (shape.split) {
      partial = source.numbers(rows * width, 0.3f);
      likes_first = source.numbers(kLikes * width, 0.1f), views_first = source.numbers(kViews * width, 0.1f);
    }
    encode_weight();
    if (rows >= 7) single_out_rows();
  }

  std::string text() const { return std::string("tower in ") + text_of(precision) + ", " + shape.text(); }

  std::vector<Expected> expected() const {
    // A number near the middle between two rounded values may go to the other one: that moves a score by such a step.
    const double tolerance = precision == Precision::kInt8 ? 2e-3 : precision == Precision::kBfloat16 ? 1e-3 : 4e-6;
    std::vector<Expected> expected = {{"scores", std::vector<double>(shape.rows()), tolerance}};
    for (size_t row = 0; row < shape.rows(); ++row) expected[0].values[row] = score(row);
    return expected;
  }

  Outputs outputs() const { return Outputs(1, std::vector<float>(shape.rows(), NAN)); }

  qin::TowerShape tower_shape() const {
    return {shape.layers, shape.products(), shape.width(), shape.embedding_dim, shape.item_width, precision};
  }

  qin::TowerWeights weights() const {
    return {weight.data(), bias.data(), shift.data(), slope.data(), output_weight.data(), output_bias.data(),
            precision == Precision::kInt8 ? weight_scale.data() : nullptr};
  }

  qin::TowerArguments arguments(Outputs& outputs) const {
    const auto part = [this](auto& numbers) { return shape.split ? numbers.data() : nullptr; };
    return {target.data(), pooled.data(), candidate_rows.data(), levels.data(), likes.data(), views.data(), part(partial),
            part(likes_first), part(views_first), outputs[0].data(), kTableRows, kLikes, kViews, shape.rows()};
  }

 private:
  void encode_weight() {
    const size_t width = shape.width(), size = precision == Precision::kInt8       ? sizeof(int8_t)
                                               : precision == Precision::kBfloat16 ? sizeof(uint16_t)
                                                                                   : sizeof(float);
    weight = std::vector<unsigned char>(weight_meant.size() * size);
    if (precision == Precision::kInt8) set_weight_scale();
    for (size_t i = 0; i < weight_meant.size(); ++i) {
      float& number = weight_meant[i];
      unsigned char* to = weight.data() + i * size;
      if (precision == Precision::kInt8) {
        number = nearbyintf(number / weight_scale[i / (width * width) * width + i % width]);
        *to = static_cast<unsigned char>(static_cast<int8_t>(number));
      } else if (precision == Precision::kBfloat16) {
        number = rounded_to_bfloat16(number);
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        const uint16_t upper = static_cast<uint16_t>(bits >> 16);
        memcpy(to, &upper, sizeof upper);
      } else {
        memcpy(to, &number, sizeof number);
      }
    }
  }

  void set_weight_scale() {
    const size_t width = shape.width();
    weight_scale = std::vector<float>(shape.products() * width);
    for (size_t i = 0; i < weight_meant.size(); ++i) {
      float& scale = weight_scale[i / (width * width) * width + i % width];
      scale = std::max(scale, fabsf(weight_meant[i]) / 127);
    }
  }

  // A row of zeros, one with an infinity and one with a NaN, among the others.
  void single_out_rows() {
    const size_t e = shape.embedding_dim, d = shape.item_width;
    std::fill_n(target.begin(), d, 0.0f), std::fill_n(likes.begin(), e, 0.0f), std::fill_n(views.begin(), e, 0.0f);
    std::fill_n(pooled.begin() + static_cast<long>(d), d, 0.0f);
    candidate_rows[1] = levels[2] = levels[3] = 0;
    pooled[2 * d] = INFINITY;
    pooled[4 * d + d - 1] = NAN;
  }

  std::vector<double> product_of(std::vector<double> x, size_t product) const {
    const size_t width = shape.width();
    double magnitude = 0;
    if (precision == Precision::kInt8) {
      for (double number : x) magnitude = isfinite(number) ? std::max(magnitude, fabs(number)) : INFINITY;
      if (!isfinite(magnitude)) return std::vector<double>(width, NAN);
    }
    const double inverse = magnitude > 0 ? 127 / magnitude : 0;
    std::vector<double> sums(width);
    for (size_t input = 0; input < width; ++input) {
      const double number = precision == Precision::kInt8       ? nearbyint(x[input] * inverse)
                            : precision == Precision::kBfloat16 ? rounded_to_bfloat16(static_cast<float>(x[input]))
                                                                : x[input];
      const float* weights = weight_meant.data() + (product * width + input) * width;
      for (size_t column = 0; column < width; ++column) sums[column] += number * weights[column];
    }
    if (precision == Precision::kInt8)
      for (size_t column = 0; column < width; ++column)
        sums[column] *= magnitude / 127 * weight_scale[product * width + column];
    for (size_t column = 0; column < width; ++column) sums[column] += bias[product * width + column];
    return sums;
  }

  double score(size_t row) const {
    const size_t width = shape.width(), e = shape.embedding_dim, d = shape.item_width;
    std::vector<double> x;
    const auto append = [&x](const float* numbers, size_t count) { x.insert(x.end(), numbers, numbers + count); };
    append(row_of(likes, levels[2 * row], kLikes, e), e), append(row_of(views, levels[2 * row + 1], kViews, e), e);
    append(row_of(target, candidate_rows[row], kTableRows, d), d), append(pooled.data() + row * d, d);
    for (size_t layer = 0; layer < shape.layers; ++layer) {
      std::vector<double> linear;
      if (shape.split && layer == 0) {
        const float* by_likes = row_of(likes_first, levels[2 * row], kLikes, width);
        const float* by_views = row_of(views_first, levels[2 * row + 1], kViews, width);
        for (size_t i = 0; i < width; ++i) linear.push_back(double{partial[row * width + i]} + by_likes[i] + by_views[i]);
      } else {
        linear = product_of(x, layer - shape.split);
      }
      for (size_t i = 0; i < width; ++i) {
        const double z = x[i] * linear[i] + shift[layer * width + i];
        x[i] += z < 0 ? z * slope[layer] : z;
      }
    }
    double logit = output_bias[0];
    for (size_t i = 0; i < width; ++i) logit += x[i] * output_weight[i];
    return 1 / (1 + exp(-logit));
  }
};

}  // namespace
