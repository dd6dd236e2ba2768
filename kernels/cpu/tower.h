// qin.QuadraticTower: all quadratic layers and the output, for a block of rows that stays in cache throughout.
//
// The rows of a block are kept as
//
//   x         [group of kLanes columns][row][kLanes columns]   float32, once for reading and once for writing
//   operand   the same in the precision of the products (float32: x itself), see product.h
//
// so that a tile of outputs is written where the next layer reads it. A layer is one pass over the panels of its weights;
// bias, multiplication by x, shift, PReLU and residual happen to a tile while it is still in registers.
//
// Two ways to share the work. With enough rows for every thread, each takes blocks of rows through all layers and never
// waits. With few rows, all threads take panels of the same layer, so that the weights are read once and not once per
// thread; what is waited for then is always in work on a running thread, so no wait can be for ever.
#pragma once

#include <math.h>
#include <sched.h>

#include "kernels.h"
#include "product.h"

namespace {

// Rows of one block: two float32 copies of 1024 columns and a panel fit in 1 MiB of second-level cache.
constexpr size_t kBlockRows = 60;
// With fewer rows per thread, reading the weights costs more than waiting for the other threads.
constexpr size_t kRowsWorthABlock = 24;
// Rows that one thread assembles, converts or puts out at a time where threads share a layer.
constexpr size_t kRowsAtOnce = 8;
// With fewer rows, converting and putting out is done sooner than another thread has a share of it.
constexpr size_t kRowsWorthSharing = 2 * kRowsAtOnce;

// Sizes that follow from a tower's shape.
struct Layout {
  size_t panels;          // of kPanel columns
  size_t padded;          // X, up to whole panels
  size_t words;           // of an operand's row
  size_t word_groups;     // of kLanes words
  size_t products;        // G
  size_t layers;          // L

  explicit Layout(const qin::TowerShape& shape)
      : panels(quotient_up(shape.width, kPanel)),
        padded(panels * kPanel),
        words(quotient_up(shape.width, per_word(shape.precision))),
        word_groups(quotient_up(words, kLanes)),
        products(shape.num_products),
        layers(shape.num_layers) {}

  static size_t per_word(qin::Precision precision) {
    return precision == qin::Precision::kInt8 ? Int8::kPerWord
           : precision == qin::Precision::kBfloat16 ? Bfloat16::kPerWord
                                                    : Float32::kPerWord;
  }
  size_t panel_words() const { return words * kPanel; }
  size_t num_weight_words() const { return products * panels * panel_words(); }
};

// Packed operands, all but the weights float32 and padded with zeros to whole panels.
struct Packed {
  const uint32_t* weight;       // (G, panels, words, kPanel)
  const float* bias;            // (G, padded)
  const float* shift;           // (L, padded)
  const float* output_weight;   // (padded)
  const float* weight_scale;    // (G, padded), int8 only
  const int32_t* row_offset;    // (G, padded), int8 only: what Int8::kRowOffset adds to every sum of a column
  const float* slope;           // (L)
  const float* output_bias;     // (1)

  Packed(const Layout& layout, const char* memory)
      : weight(reinterpret_cast<const uint32_t*>(memory)),
        bias(reinterpret_cast<const float*>(weight + layout.num_weight_words())),
        shift(bias + layout.products * layout.padded),
        output_weight(shift + layout.layers * layout.padded),
        weight_scale(output_weight + layout.padded),
        row_offset(reinterpret_cast<const int32_t*>(weight_scale + layout.products * layout.padded)),
        slope(reinterpret_cast<const float*>(row_offset + layout.products * layout.padded)),
        output_bias(slope + layout.layers) {}

  static size_t size(const Layout& layout) {
    const size_t numbers =
        layout.num_weight_words() + (3 * layout.products + layout.layers + 1) * layout.padded + layout.layers + 1;
    return rounded_up(numbers * sizeof(float), qin::kAlignment);
  }
};

inline void pack_rows(const float* from, size_t num_rows, size_t width, size_t padded, const float* to) {
  float* out = const_cast<float*>(to);
  for (size_t row = 0; row < num_rows; ++row)
    for (size_t column = 0; column < padded; ++column)
      out[row * padded + column] = column < width ? from[row * width + column] : 0;
}

// One layer's weights (X, X), inputs by outputs, to panels of words.
template <class Element>
inline void pack_weight(const Element* from, size_t width, const Layout& layout, const uint32_t* to) {
  constexpr size_t kPerWord = sizeof(uint32_t) / sizeof(Element);
  Element* out = reinterpret_cast<Element*>(const_cast<uint32_t*>(to));
  for (size_t panel = 0; panel < layout.panels; ++panel)
    for (size_t word = 0; word < layout.words; ++word)
      for (size_t column = panel * kPanel; column < (panel + 1) * kPanel; ++column)
        for (size_t part = 0; part < kPerWord; ++part) {
          const size_t input = word * kPerWord + part;
          *out++ = column < width && input < width ? from[input * width + column] : Element{0};
        }
}

inline void pack_row_offset(const int8_t* from, size_t width, size_t padded, const int32_t* to) {
  int32_t* out = const_cast<int32_t*>(to);
  for (size_t column = 0; column < padded; ++column) {
    int32_t sum = 0;
    for (size_t input = 0; column < width && input < width; ++input) sum += from[input * width + column];
    out[column] = Int8::kRowOffset * sum;
  }
}

size_t packed_size(const qin::TowerShape& shape) { return Packed::size(Layout(shape)); }

void pack(const qin::TowerShape& shape, const qin::TowerWeights& weights, char* memory) {
  const Layout layout(shape);
  const Packed packed(layout, memory);
  const size_t width = shape.width;
  for (size_t product = 0; product < layout.products; ++product) {
    const uint32_t* to = packed.weight + product * layout.panels * layout.panel_words();
    const size_t from = product * width * width;
    if (shape.precision == qin::Precision::kFloat32) {
      pack_weight(static_cast<const uint32_t*>(weights.weight) + from, width, layout, to);
    } else if (shape.precision == qin::Precision::kBfloat16) {
      pack_weight(static_cast<const uint16_t*>(weights.weight) + from, width, layout, to);
    } else {
      const int8_t* weight = static_cast<const int8_t*>(weights.weight) + from;
      pack_weight(weight, width, layout, to);
      pack_row_offset(weight, width, layout.padded, packed.row_offset + product * layout.padded);
    }
  }
  pack_rows(weights.bias, layout.products, width, layout.padded, packed.bias);
  pack_rows(weights.shift, layout.layers, width, layout.padded, packed.shift);
  pack_rows(weights.output_weight, 1, width, layout.padded, packed.output_weight);
  if (shape.precision == qin::Precision::kInt8)
    pack_rows(weights.weight_scale, layout.products, width, layout.padded, packed.weight_scale);
  pack_rows(weights.slope, layout.layers, 1, 1, packed.slope);
  pack_rows(weights.output_bias, 1, 1, 1, packed.output_bias);
}

// The rows of one block on their way through the layers.
struct Block {
  size_t first, num_rows;
  float* x;              // [padded / kLanes][row][kLanes]
  float* next;           // the same, being written
  uint32_t* operand;     // [word_groups][row][kLanes]; float32 multiplies x itself
  float* row_scale;      // (rows), int8 only
  float* line;           // (2, padded), one row while it is assembled

  static size_t numbers(const Layout& layout, const qin::TowerShape& shape, size_t num_rows) {
    const size_t operand = shape.precision == qin::Precision::kFloat32 ? 0 : layout.word_groups * kLanes;
    return rounded_up(num_rows * (2 * layout.padded + operand + 1), kLanes) + 2 * layout.padded;
  }
  static size_t size(const Layout& layout, const qin::TowerShape& shape, size_t num_rows) {
    return rounded_up(numbers(layout, shape, num_rows) * sizeof(float), qin::kAlignment);
  }
  Block(const Layout& layout, const qin::TowerShape& shape, size_t first, size_t num_rows, char* memory)
      : first(first),
        num_rows(num_rows),
        x(reinterpret_cast<float*>(memory)),
        next(x + num_rows * layout.padded),
        operand(reinterpret_cast<uint32_t*>(next + num_rows * layout.padded)),
        row_scale(reinterpret_cast<float*>(x) + numbers(layout, shape, num_rows) - 2 * layout.padded - num_rows),
        line(row_scale + num_rows) {}

  // Distance in numbers from one group of a row's columns to the next.
  size_t step() const { return num_rows * kLanes; }

  // What a layer wrote is what the next one reads.
  void turn() {
    float* const written = next;
    next = x;
    x = written;
  }
};

// x + prelu(x * linear + shift)
inline Floats quadratic(Floats x, Floats linear, Floats shift, Floats slope) {
  const Floats z = fused_multiply_add(x, linear, shift);
  return x + (z < 0 ? z * slope : z);
}

// Zero in the columns past X, whatever an infinity nearby made of them: they must not enter the next product.
inline Floats only_first(Floats vector, size_t count) {
  if (count >= kLanes) return vector;
  float kept[kLanes];
  store(kept, vector);
  for (size_t lane = count; lane < kLanes; ++lane) kept[lane] = 0;
  return load<Floats>(kept);
}

// One layer for some of its panels.
struct LayerPass {
  const Layout& layout;
  const Packed& packed;
  const Block& block;
  size_t width, layer, product;
};

inline Floats linear_of(Floats sum, const LayerPass& pass, size_t column, size_t) {
  return sum + load<Floats>(pass.packed.bias + pass.product * pass.layout.padded + column);
}

inline Floats linear_of(Ints sum, const LayerPass& pass, size_t column, size_t row) {
  const size_t at = pass.product * pass.layout.padded + column;
  const Floats exact = to_floats(sum - load<Ints>(pass.packed.row_offset + at));
  const Floats scaled = exact * broadcast(pass.block.row_scale[row]) * load<Floats>(pass.packed.weight_scale + at);
  return scaled + load<Floats>(pass.packed.bias + at);
}

template <class Number, int kRows>
void run_tile(const LayerPass& pass, size_t panel, size_t row) {
  const Layout& layout = pass.layout;
  const Block& block = pass.block;
  const uint32_t* operand =
      Number::kPerWord == 1 ? reinterpret_cast<const uint32_t*>(block.x) : block.operand;
  const uint32_t* columns =
      pass.packed.weight + (pass.product * layout.panels + panel) * layout.panel_words();
  typename Number::Sum sum[kRows][kPanelVectors];
  multiply<Number, kRows>(operand + row * kLanes, block.step(), columns, layout.words, sum);

  const Floats slope = broadcast(pass.packed.slope[pass.layer]);
#pragma GCC unroll 4
  for (int vector = 0; vector < kPanelVectors; ++vector) {
    const size_t column = panel * kPanel + vector * kLanes;
    const size_t num_valid = column < pass.width ? pass.width - column : 0;
    const Floats shift = load<Floats>(pass.packed.shift + pass.layer * layout.padded + column);
    const size_t at = column * block.num_rows + row * kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Floats linear = linear_of(sum[r][vector], pass, column, row + r);
      const Floats x = load<Floats>(block.x + at + r * kLanes);
      const Floats y = quadratic(x, linear, shift, slope);
      store(block.next + at + r * kLanes, only_first(y, num_valid));
    }
  }
}

using Tile = void (*)(const LayerPass&, size_t panel, size_t row);

template <class Number, int... kRows>
struct Tiles {
  static constexpr Tile of_rows[] = {run_tile<Number, kRows>...};
};

#if defined(__AVX512F__) || defined(__aarch64__)
template <class Number>
using AllTiles = Tiles<Number, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
#elif defined(__AVX2__)
template <class Number>
using AllTiles = Tiles<Number, 1, 2, 3, 4, 5, 6>;
#else
template <class Number>
using AllTiles = Tiles<Number, 1, 2, 3, 4>;
#endif

inline const Tile* tiles_of(qin::Precision precision) {
  static_assert(sizeof AllTiles<Float32>::of_rows == kTileRows * sizeof(Tile), "a tile for every number of rows");
  return precision == qin::Precision::kInt8 ? AllTiles<Int8>::of_rows
         : precision == qin::Precision::kBfloat16 ? AllTiles<Bfloat16>::of_rows
                                                  : AllTiles<Float32>::of_rows;
}

// Tiles of nearly the same height: as few as can be, none of them much lower than the others.
inline void run_panels(const LayerPass& pass, const Tile* tiles, size_t first_panel, size_t last_panel) {
  const size_t num_rows = pass.block.num_rows, num_tiles = quotient_up(num_rows, kTileRows);
  for (size_t panel = first_panel; panel < last_panel; ++panel)
    for (size_t tile = 0; tile < num_tiles; ++tile) {
      const size_t row = tile * num_rows / num_tiles, end = (tile + 1) * num_rows / num_tiles;
      tiles[end - row - 1](pass, panel, row);
    }
}

inline Words rounded_to_bfloat16(Floats values) {
  const Words bits = as_words(values);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words quiet_nan = (bits >> 16) | 0x40u;
  return (values != values) ? quiet_nan : rounded;
}

inline void to_bfloat16(const Block& block, const Layout& layout, size_t row) {
  uint16_t* out = reinterpret_cast<uint16_t*>(block.operand + row * kLanes);
  for (size_t group = 0; group < layout.padded / kLanes; ++group) {
    const Words rounded = rounded_to_bfloat16(load<Floats>(block.x + group * block.step() + row * kLanes));
    typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
    // Two groups of columns make one group of words.
    store(out + (group / 2) * block.step() * 2 + (group % 2) * kLanes, __builtin_convertvector(rounded, Halves));
  }
}

// Symmetric, one scale per row. A row with an infinity has the scale infinity and only zeros, so its product is NaN; a
// NaN spoils the row's score from where it is, in x.
inline void to_int8(const Block& block, const Layout& layout, size_t row) {
  const float* x = block.x + row * kLanes;
  const size_t num_groups = layout.padded / kLanes;
  Floats magnitudes = {};
  for (size_t group = 0; group < num_groups; ++group)
    magnitudes = larger(absolute(load<Floats>(x + group * block.step())), magnitudes);
  const float magnitude = largest_of(magnitudes), exact = 127.0f / magnitude;
  block.row_scale[row] = magnitude / 127.0f;
  // Zeros alone, and numbers so small that nothing stretches them to 127, count as zeros.
  const bool usable = exact <= __FLT_MAX__;
  const Floats inverse = broadcast(usable ? exact : 0.0f);
  // Adding 1.5 * 2^23 leaves an integer, rounded half to even, in the lowest bits.
  const Floats rounder = broadcast(12582912.0f);
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  uint8_t* out = reinterpret_cast<uint8_t*>(block.operand + row * kLanes);
  for (size_t group = 0; group < layout.word_groups * 4; ++group) {
    Words bits = {};
    if (usable && group < num_groups) {
      const Floats scaled = load<Floats>(x + group * block.step()) * inverse;
      bits = as_words(scaled + rounder);
    }
    bits = (bits + static_cast<uint32_t>(Int8::kRowOffset)) & 0xffu;
    // Four groups of columns make one group of words.
    store(out + (group / 4) * block.step() * 4 + (group % 4) * kLanes, __builtin_convertvector(bits, Bytes));
  }
}

inline void prepare_operand(const Block& block, const Layout& layout, qin::Precision precision, size_t first,
                            size_t last) {
  if (precision == qin::Precision::kBfloat16)
    for (size_t row = first; row < last; ++row) to_bfloat16(block, layout, row);
  if (precision == qin::Precision::kInt8)
    for (size_t row = first; row < last; ++row) to_int8(block, layout, row);
}

// The tower on one set of arguments.
class Tower {
 public:
  Tower(const qin::TowerShape& shape, const char* packed, const qin::TowerArguments& arguments)
      : shape_(shape),
        layout_(shape),
        packed_(layout_, packed),
        arguments_(arguments),
        tiles_(tiles_of(shape.precision)) {}

  const Layout& layout() const { return layout_; }
  const qin::TowerShape& shape() const { return shape_; }
  size_t num_rows() const { return arguments_.num_rows; }

  // The rows' input, through layer 1 where it is split, and on to the first product.
  void assemble(const Block& block, size_t first, size_t last, float* line) const {
    for (size_t row = first; row < last; ++row) {
      float* linear = line + layout_.padded;
      concatenate(block.first + row, line);
      if (shape_.split()) add_first(block.first + row, linear);
      for (size_t column = 0; column < layout_.padded; column += kLanes) {
        Floats x = load<Floats>(line + column);
        if (shape_.split())
          x = quadratic(x, load<Floats>(linear + column), load<Floats>(packed_.shift + column),
                        broadcast(packed_.slope[0]));
        store(block.x + column * block.num_rows + row * kLanes, x);
      }
    }
    go_on(block, 0, first, last);
  }

  void multiply_panels(const Block& block, size_t product, size_t first, size_t last) const {
    const size_t layer = product + (shape_.split() ? 1 : 0);
    run_panels({layout_, packed_, block, shape_.width, layer, product}, tiles_, first, last);
  }

  // From x to the operand of product `next`, or behind the last product to the scores.
  bool goes_on(size_t next) const {
    return next == layout_.products || shape_.precision != qin::Precision::kFloat32;
  }
  void go_on(const Block& block, size_t next, size_t first, size_t last) const {
    if (next < layout_.products)
      prepare_operand(block, layout_, shape_.precision, first, last);
    else
      put_out(block, first, last);
  }

 private:
  void put_out(const Block& block, size_t first, size_t last) const {
    for (size_t row = first; row < last; ++row) {
      Floats sum = {};
      for (size_t column = 0; column < layout_.padded; column += kLanes)
        sum = fused_multiply_add(load<Floats>(block.x + column * block.num_rows + row * kLanes),
                                 load<Floats>(packed_.output_weight + column), sum);
      const float logit = sum_of(sum) + packed_.output_bias[0];
      arguments_.scores[block.first + row] = 1.0f / (1.0f + expf(-logit));
    }
  }

  // x = [likes | views | target | pooled], zeros up to whole panels.
  void concatenate(size_t row, float* x) const {
    const qin::TowerArguments& a = arguments_;
    const size_t e = shape_.embedding_dim, d = shape_.item_width;
    const float* target = a.target + position(a.candidate_rows[row], a.num_table_rows) * d;
    __builtin_memcpy(x, likes(a.likes, row, e), e * sizeof(float));
    __builtin_memcpy(x + e, views(a.views, row, e), e * sizeof(float));
    __builtin_memcpy(x + 2 * e, target, d * sizeof(float));
    __builtin_memcpy(x + 2 * e + d, a.pooled + row * d, d * sizeof(float));
    for (size_t column = shape_.width; column < layout_.padded; ++column) x[column] = 0;
  }

  // Layer 1's linear map, from the tables.
  void add_first(size_t row, float* linear) const {
    const qin::TowerArguments& a = arguments_;
    const size_t width = shape_.width;
    const float* partial = a.partial + row * width;
    const float* of_likes = likes(a.likes_first, row, width);
    const float* of_views = views(a.views_first, row, width);
    for (size_t column = 0; column < width; ++column)
      linear[column] = partial[column] + of_likes[column] + of_views[column];
    for (size_t column = width; column < layout_.padded; ++column) linear[column] = 0;
  }

  const float* likes(const float* table, size_t row, size_t width) const {
    return table + position(arguments_.levels[2 * row], arguments_.num_likes) * width;
  }
  const float* views(const float* table, size_t row, size_t width) const {
    return table + position(arguments_.levels[2 * row + 1], arguments_.num_views) * width;
  }
  static size_t position(int64_t row, size_t num_rows) {
    return static_cast<size_t>(row < 0 ? row + static_cast<int64_t>(num_rows) : row);
  }

  const qin::TowerShape& shape_;
  const Layout layout_;
  const Packed packed_;
  const qin::TowerArguments& arguments_;
  const Tile* const tiles_;
};

// How a run is shared among threads.
struct Plan {
  bool by_panels;
  size_t num_blocks, block_rows, num_tasks;

  Plan(const Layout& layout, size_t num_rows, size_t num_threads) {
    by_panels = num_threads > 1 && layout.products > 0 && num_rows < kRowsWorthABlock * num_threads;
    if (by_panels) {
      num_blocks = 1, block_rows = num_rows, num_tasks = smaller(num_threads, layout.panels);
    } else {
      num_blocks = rounded_up(quotient_up(num_rows, kBlockRows), num_threads);
      block_rows = quotient_up(num_rows, num_blocks);
      num_blocks = quotient_up(num_rows, block_rows);
      num_tasks = smaller(num_threads, num_blocks);
    }
  }
};

// Every task takes whole blocks of rows through all layers.
struct RunByRows {
  const Tower& tower;
  const Plan& plan;
  char* scratch;
  size_t next_block;

  static void work(void* data, size_t task) {
    RunByRows& run = *static_cast<RunByRows*>(data);
    const Tower& tower = run.tower;
    char* memory = run.scratch + task * Block::size(tower.layout(), tower.shape(), run.plan.block_rows);
    for (;;) {
      const size_t index = __atomic_fetch_add(&run.next_block, 1, __ATOMIC_RELAXED);
      if (index >= run.plan.num_blocks) return;
      const size_t first = index * run.plan.block_rows;
      const size_t num_rows = smaller(run.plan.block_rows, tower.num_rows() - first);
      Block block(tower.layout(), tower.shape(), first, num_rows, memory);
      tower.assemble(block, 0, num_rows, block.line);
      for (size_t product = 0; product < tower.layout().products; ++product) {
        tower.multiply_panels(block, product, 0, tower.layout().panels);
        block.turn();
        tower.go_on(block, product + 1, 0, num_rows);
      }
    }
  }
};

inline void wait_a_little(size_t times) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
  if (times % 256 == 255) sched_yield();
}

// Every task takes a share of one stage after the other: rows to assemble, then for each product its panels, and rows to
// go on from it with. Few rows are not worth a stage: the task that ends a product goes on with all of them.
struct RunByPanels {
  const Tower& tower;
  const Block& block;
  char* lines;              // (tasks, 2, padded)
  size_t panels_at_once;
  bool shares_rows;
  size_t next_unit;         // over all stages, in their order
  size_t units_done;        // likewise
  size_t units_ready;       // those of the stages whose results all may read

  static bool multiplies(size_t stage) { return stage % 2 == 1; }

  size_t units_of(size_t stage) const {
    if (multiplies(stage)) return quotient_up(tower.layout().panels, panels_at_once);
    return stage == 0 || (shares_rows && tower.goes_on(stage / 2)) ? quotient_up(block.num_rows, kRowsAtOnce) : 0;
  }

  static void work(void* data, size_t task) {
    RunByPanels& run = *static_cast<RunByPanels*>(data);
    const size_t num_stages = 1 + 2 * run.tower.layout().products;
    size_t stage = 0, stage_begins = 0;
    Block block = run.block;
    for (;;) {
      const size_t unit = __atomic_fetch_add(&run.next_unit, 1, __ATOMIC_RELAXED);
      while (stage < num_stages && unit >= stage_begins + run.units_of(stage)) {
        stage_begins += run.units_of(stage);
        if (multiplies(stage++)) block.turn();
      }
      if (stage == num_stages) return;
      // Every unit before this one was taken by a thread that runs.
      for (size_t times = 0; __atomic_load_n(&run.units_ready, __ATOMIC_ACQUIRE) < stage_begins; ++times)
        wait_a_little(times);
      run.do_unit(block, stage, unit - stage_begins, task);
      const size_t done = __atomic_add_fetch(&run.units_done, 1, __ATOMIC_ACQ_REL);
      if (done == stage_begins + run.units_of(stage)) run.end(block, stage, done);
    }
  }

  void do_unit(const Block& block, size_t stage, size_t unit, size_t task) const {
    if (multiplies(stage)) {
      const size_t first = unit * panels_at_once;
      tower.multiply_panels(block, stage / 2, first, smaller(first + panels_at_once, tower.layout().panels));
      return;
    }
    const size_t first = unit * kRowsAtOnce, last = smaller(first + kRowsAtOnce, block.num_rows);
    if (stage == 0)
      tower.assemble(block, first, last, reinterpret_cast<float*>(lines) + task * 2 * tower.layout().padded);
    else
      tower.go_on(block, stage / 2, first, last);
  }

  void end(Block block, size_t stage, size_t done) {
    if (multiplies(stage) && !shares_rows) {
      block.turn();
      tower.go_on(block, stage / 2 + 1, 0, block.num_rows);
    }
    __atomic_store_n(&units_ready, done, __ATOMIC_RELEASE);
  }
};

inline size_t lines_size(const Layout& layout, size_t num_tasks) {
  return num_tasks * 2 * layout.padded * sizeof(float);
}

size_t tower_scratch(const qin::TowerShape& shape, size_t num_rows, size_t num_threads) {
  const Layout layout(shape);
  const Plan plan(layout, num_rows, num_threads);
  const size_t block = Block::size(layout, shape, plan.block_rows);
  return plan.by_panels ? block + lines_size(layout, plan.num_tasks) : plan.num_tasks * block;
}

void tower(const qin::TowerShape& shape, const char* packed, const qin::TowerArguments& arguments,
           const qin::Threads& threads, char* scratch) {
  const Tower tower(shape, packed, arguments);
  const Plan plan(tower.layout(), arguments.num_rows, threads.count);
  const auto start = [&](void (*work)(void*, size_t), void* run) {
    if (plan.num_tasks <= 1)
      work(run, 0);
    else
      threads.run(threads.context, work, run, plan.num_tasks);
  };
  if (!plan.by_panels) {
    RunByRows run{tower, plan, scratch, 0};
    return start(RunByRows::work, &run);
  }
  const Block block(tower.layout(), shape, 0, arguments.num_rows, scratch);
  char* lines = scratch + Block::size(tower.layout(), shape, arguments.num_rows);
  const size_t panels_at_once = quotient_up(tower.layout().panels, 8 * plan.num_tasks);
  RunByPanels run{tower, block, lines, panels_at_once, arguments.num_rows >= kRowsWorthSharing, 0, 0, 0};
  start(RunByPanels::work, &run);
}

}  // namespace
