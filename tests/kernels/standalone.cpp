// Runs every kernel that this machine can run against a plain reference in double precision, without ONNX Runtime: the
// program for sanitizers, valgrind and emulators.
//
//   standalone [--quick] [--only avx2,generic]
//
// Operands are vectors of exactly their size and scratch has exactly the size that a kernel asks for, so a tool that
// watches the heap sees the first byte past any of them. Results of several threads must be those of one, to the bit,
// however the tasks are started.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cases.h"

namespace {

using qin::InstructionSet;

// Ways to start tasks. A kernel counts on no task but the ones that run, and on none of them running at once.

using Task = void (*)(void* data, size_t index);

void at_once(const void*, Task task, void* data, size_t num_tasks) {
  std::vector<std::thread> threads;
  for (size_t i = 1; i < num_tasks; ++i) threads.emplace_back(task, data, i);
  task(data, 0);
  for (std::thread& thread : threads) thread.join();
}

void late(const void*, Task task, void* data, size_t num_tasks) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < num_tasks; ++i) {
    threads.emplace_back(task, data, i);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  for (std::thread& thread : threads) thread.join();
}

void one_after_the_other(const void*, Task task, void* data, size_t num_tasks) {
  for (size_t i = num_tasks; i-- > 0;) std::thread(task, data, i).join();
}

void only_the_last(const void*, Task task, void* data, size_t num_tasks) { task(data, num_tasks - 1); }

struct Start {
  const char* text;
  size_t num_threads;
  void (*run)(const void* context, Task task, void* data, size_t num_tasks);
};

constexpr Start kStarts[] = {
    {"2 threads", 2, at_once},
    {"4 threads", 4, at_once},
    {"4 threads that start late", 4, late},
    {"4 threads, one after the other", 4, one_after_the_other},
    {"4 threads, of which only the last runs", 4, only_the_last},
};

// Counts the times that a kernel shares its work, and lets it ask for no more tasks than there are threads.
struct Watch {
  const Start& start;
  mutable size_t num_runs = 0;
  mutable Task task = nullptr;  // what was shared

  static void run(const void* self, Task task, void* data, size_t num_tasks) {
    const Watch& watch = *static_cast<const Watch*>(self);
    if (num_tasks > watch.start.num_threads) abort();
    ++watch.num_runs, watch.task = task;
    watch.start.run(nullptr, task, data, num_tasks);
  }
};

// One thread's memory stays as the heap gave it, for tools that know what was never written; others' is NaN throughout.
std::unique_ptr<char, void (*)(void*)> aligned_memory(size_t size, bool fill) {
  void* memory = nullptr;
  if (posix_memalign(&memory, qin::kAlignment, size)) abort();
  if (fill) memset(memory, 0xff, size);
  return {static_cast<char*>(memory), free};
}
Outputs run(const AttentionCase& given, const InstructionSet& set, const qin::Threads& threads) {
  Outputs outputs = given.outputs();
  const qin::AttentionArguments arguments = given.arguments(outputs);
  const auto scratch = aligned_memory(set.attention_scratch(arguments, threads.count), threads.count > 1);
  set.attention(arguments, threads, scratch.get());
  return outputs;
}

Outputs run(const TowerCase& given, const InstructionSet& set, const qin::Threads& threads) {
  const qin::TowerShape shape = given.tower_shape();
  const auto packed = aligned_memory(set.packed_size(shape), threads.count > 1);
  set.pack(shape, given.weights(), packed.get());
  Outputs outputs = given.outputs();
  const auto scratch = aligned_memory(set.tower_scratch(shape, given.shape.rows(), threads.count), threads.count > 1);
  set.tower(shape, packed.get(), given.arguments(outputs), threads, scratch.get());
  return outputs;
}

// How often each way of sharing was taken. The tower's ways are told apart by the task that they start: a single row can
// be shared by panels alone, so the task that shares one is that way's, and any other one shares rows. Towers without a
// product have but one way.
struct Tally {
  const InstructionSet& set;
  size_t num_attention = 0, num_tower = 0, num_shared = 0;
  std::map<Task, size_t> tower_tasks = {};
  Task by_panels = nullptr;

  void count(const AttentionCase&) { ++num_attention; }
  void count(const TowerCase&) { ++num_tower; }
  void count_shared(const AttentionCase&, const Watch& watch) { num_shared += watch.num_runs; }
  void count_shared(const TowerCase& given, const Watch& watch) {
    if (!watch.num_runs || !given.shape.products()) return;
    tower_tasks[watch.task] += watch.num_runs;
    if (given.shape.rows() == 1) by_panels = watch.task;
  }

  size_t num_by_panels() const { return by_panels ? tower_tasks.at(by_panels) : 0; }
  size_t num_by_rows() const {
    size_t sum = 0;
    for (const auto& [task, count] : tower_tasks) sum += task == by_panels ? 0 : count;
    return sum;
  }
};

[[noreturn]] void fail(const InstructionSet& set, const std::string& what, const char* start, const char* output,
                       size_t index, double got, double wanted) {
  printf("%s: %s, %s: %s[%zu] is %.9g, not %.9g\n", set.name, what.c_str(), start, output, index, got, wanted);
  exit(1);
}

template <class Case>
void check(const Case& given, const std::vector<Expected>& expected, Tally& tally) {
  const InstructionSet& set = tally.set;
  const Outputs alone = run(given, set, {1, nullptr, nullptr});
  for (size_t output = 0; output < expected.size(); ++output)
    for (size_t i = 0; i < alone[output].size(); ++i)
      if (const Expected& of = expected[output]; !Expected::same(alone[output][i], of.values[i], of.tolerance))
        fail(set, given.text(), "1 thread", of.name, i, alone[output][i], of.values[i]);
  for (const Start& start : kStarts) {
    const Watch watch{start};
    const Outputs together = run(given, set, {start.num_threads, &watch, Watch::run});
    for (size_t output = 0; output < expected.size(); ++output)
      for (size_t i = 0; i < alone[output].size(); ++i)
        if (memcmp(&together[output][i], &alone[output][i], sizeof(float)))
          fail(set, given.text(), start.text, expected[output].name, i, together[output][i], alone[output][i]);
    tally.count_shared(given, watch);
  }
  tally.count(given);
}

template <class Case, class... More>
void check_with_all(std::vector<Tally>& tallies, const Shape& shape, More... more) {
  const Case given(shape, more...);
  const std::vector<Expected> expected = given.expected();
  for (Tally& tally : tallies) check(given, expected, tally);
}

struct Widths {
  size_t embedding_dim, item_width;
};

// The widths that are tested: 2 (E + D) is an odd multiple of 2 in all but the last, so it fills no vector.
constexpr Widths kWidths[] = {{1, 2}, {4, 9}, {17, 40}, {32, 96}};
// Shapes of more multiply-adds are left out: at half as many, attention is shared among threads.
constexpr size_t kMost = 8'000'000;
// Of all shapes, a quick run takes one in so many: a prime, so that it comes to each value of each dimension.
constexpr size_t kQuickly = 7;

std::vector<Shape> all_shapes() {
  std::vector<Shape> shapes;
  for (const auto& [e, d] : kWidths)
    for (size_t users : {1, 3})
      for (size_t candidates : {1, 7, 23, 64, 200, 1000})
        for (bool split : {false, true}) {
          for (size_t history : {0, 1, 5, 64, 200}) shapes.push_back({users, candidates, history, e, d, 0, split});
          for (size_t layers : {1, 2, 3, 4}) shapes.push_back({users, candidates, 0, e, d, layers, split});
        }
  return shapes;
}

// Shapes without layers are attention's.
void check_all(std::vector<Tally>& tallies, bool quick) {
  const std::vector<Shape> shapes = all_shapes();
  for (size_t i = 0; i < shapes.size(); i += quick ? kQuickly : 1) {
    const Shape& shape = shapes[i];
    if (shape.layers > 0) {
      if (shape.rows() * shape.products() * shape.width() * shape.width() > kMost) continue;
      for (Precision precision : {Precision::kFloat32, Precision::kBfloat16, Precision::kInt8})
        check_with_all<TowerCase>(tallies, shape, precision);
    } else if (shape.rows() * shape.history * (2 * shape.item_width + shape.split * shape.width()) <= kMost) {
      check_with_all<AttentionCase>(tallies, shape);
    }
  }
}

bool is_among(const char* name, const std::string& names) {
  return names.empty() || ("," + names + ",").find("," + std::string(name) + ",") != std::string::npos;
}

}  // namespace

int main(int num_arguments, char** arguments) {
  bool quick = false;
  std::string only;
  for (int i = 1; i < num_arguments; ++i) {
    if (!strcmp(arguments[i], "--quick")) {
      quick = true;
    } else if (!strcmp(arguments[i], "--only") && i + 1 < num_arguments) {
      only = arguments[++i];
    } else {
      fprintf(stderr, "usage: standalone [--quick] [--only avx2,generic]\n");
      return 2;
    }
  }
  std::vector<Tally> tallies;
  for (const InstructionSet* const* set = qin::instruction_sets(); *set; ++set)
    if (is_among((*set)->name, only)) tallies.push_back({**set});
  if (tallies.empty()) {
    fprintf(stderr, "this machine runs none of %s\n", only.c_str());
    return 2;
  }
  check_all(tallies, quick);
  for (const Tally& tally : tallies)
    printf("%s: %zu cases of attention, %zu of the tower; shared among threads: attention %zu times, the tower %zu times "
           "by rows and %zu times by panels\n", tally.set.name, tally.num_attention, tally.num_tower, tally.num_shared,
           tally.num_by_rows(), tally.num_by_panels());
}
