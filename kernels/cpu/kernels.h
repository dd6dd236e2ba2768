// What an instruction set offers to the operations, and the arguments that the two sides exchange.
//
// Arrays are row-major. U users, N candidates of each, H history length, D item width, E embedding_dim,
// X = 2 E + 2 D input width, n table rows, L layers, G layers whose linear map is a matrix product.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qin {

enum class Precision { kFloat32, kBfloat16, kInt8 };

// Threads to work on: `run` calls task(data, i) for every i below num_tasks, maybe at once, and returns when all ended.
struct Threads {
  size_t count;
  const void* context;
  void (*run)(const void* context, void (*task)(void* data, size_t index), void* data, size_t num_tasks);
};

// Rows count from the end of the table where they are negative, as in ONNX; all are within [-n, n).
struct AttentionArguments {
  const float* target;             // (n, D)
  const float* key;                // (n, D)
  const float* value;              // (n, D)
  const float* input_part;         // (n, X), or null: no partial
  const float* history_part;       // (n, X), or null
  const int64_t* candidate_rows;   // (U, N)
  const int64_t* history_rows;     // (U, H)
  float* pooled;                   // (U, N, D)
  float* partial;                  // (U, N, X), or null
  size_t num_table_rows, num_users, num_candidates, history_length, item_width, input_width;
};

struct TowerShape {
  size_t num_layers;       // L
  size_t num_products;     // G: L, or L - 1 with layer 1 split
  size_t width;            // X
  size_t embedding_dim;    // E
  size_t item_width;       // D
  Precision precision;
  bool split() const { return num_products < num_layers; }
};

struct TowerWeights {
  const void* weight;           // (G, X, X) inputs by outputs, in the shape's precision
  const float* bias;            // (G, X)
  const float* shift;           // (L, X)
  const float* slope;           // (L)
  const float* output_weight;   // (X)
  const float* output_bias;     // (1)
  const float* weight_scale;    // (G, X), or null unless int8
};

struct TowerArguments {
  const float* target;             // (n, D)
  const float* pooled;             // (rows, D)
  const int64_t* candidate_rows;   // (rows)
  const int64_t* levels;           // (rows, 2)
  const float* likes;              // (levels, E)
  const float* views;              // (levels, E)
  const float* partial;            // (rows, X), or null unless split
  const float* likes_first;        // (levels, X), or null unless split
  const float* views_first;        // (levels, X), or null unless split
  float* scores;                   // (rows)
  size_t num_table_rows, num_likes, num_views;
  size_t num_rows;                 // U N
};

// Scratch and packed weights start at multiples of this.
constexpr size_t kAlignment = 64;

struct InstructionSet {
  const char* name;
  size_t (*attention_scratch)(const AttentionArguments&, size_t num_threads);
  void (*attention)(const AttentionArguments&, const Threads&, char* scratch);
  size_t (*packed_size)(const TowerShape&);
  void (*pack)(const TowerShape&, const TowerWeights&, char* packed);
  size_t (*tower_scratch)(const TowerShape&, size_t num_rows, size_t num_threads);
  void (*tower)(const TowerShape&, const char* packed, const TowerArguments&, const Threads&, char* scratch);
};

// Those that this machine can run, best first; ends with null.
const InstructionSet* const* instruction_sets();

// The one for kernels to come.
const InstructionSet& instruction_set();

}  // namespace qin
