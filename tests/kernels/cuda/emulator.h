// A GPU for tests: runs the kernels of kernels/cuda/ on the CPU, every thread of a block as a coroutine of its own.
//
// Threads run in a changing order and as far as they get, so a barrier that is missing shows as a wrong result sooner or
// later. Shared memory is fresh for each block, of exactly the size that was asked for, and filled with NaN. A copy to
// shared memory happens when its group is waited for and no earlier. Tensor cores follow the tables of PTX's manual,
// element by element, and cut off what they add as they do.
//
// QIN_EMULATED_ARCHITECTURE is 800 or 750: with tensor cores that know the kernels' numbers, or without.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define QIN_DEVICE static inline
#define QIN_KERNEL(threads, blocks) static void

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

namespace emulator {

struct Index {
  unsigned x, y, z;
};

[[noreturn]] inline void give_up(const char* why) {
  fprintf(stderr, "emulator: %s\n", why);
  exit(3);
}

// A stack and the place on it where a thread goes on.
class Coroutine {
 public:
  static constexpr size_t kStack = 1 << 16;

  Coroutine() : stack_(static_cast<char*>(aligned_alloc(16, kStack)), free) {}

#if defined(__x86_64__)
  void begin(void (*entry)()) {
    // As if `switch_to` had been called from `entry`'s beginning: six saved registers, then where to return.
    void** top = reinterpret_cast<void**>(stack_.get() + kStack);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    here_ = top;
  }
  void resume() { switch_to(&caller_, here_); }
  void yield() { switch_to(&here_, caller_); }

 private:
  __attribute__((naked, noinline)) static void switch_to(void** /*leave*/, void* /*enter*/) {
    asm volatile(
        "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
        "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
        "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
  }
  void *here_ = nullptr, *caller_ = nullptr;
#else
  void begin(void (*entry)()) {
    getcontext(&here_);
    here_.uc_stack = {stack_.get(), 0, kStack};
    here_.uc_link = nullptr;
    makecontext(&here_, entry, 0);
  }
  void resume() { swapcontext(&caller_, &here_); }
  void yield() { swapcontext(&here_, &caller_); }

 private:
  ucontext_t here_, caller_;
#endif
  std::unique_ptr<char, void (*)(void*)> stack_;
};

struct Copy {
  uint4* to;
  const uint4* from;
};

struct Thread {
  Coroutine coroutine;
  enum { kReady, kAtBarrier, kInWarp, kDone } state;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Warp {
  void* arguments[32];
  unsigned arrived;
};

// One block at a time.
struct Machine {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::function<void()> body;
  std::unique_ptr<char, void (*)(void*)> shared{nullptr, free};
  unsigned num_threads = 0, running = 0;
  std::mt19937 order{1};
  uint64_t num_blocks = 0;
  Index block_index{}, grid{};

  static Machine& instance() {
    static Machine machine;
    return machine;
  }

  Thread& thread() { return *threads[running]; }

  static void run_thread() {
    Machine& machine = instance();
    machine.body();
    machine.thread().state = Thread::kDone;
    machine.thread().coroutine.yield();
    give_up("a thread that ended went on");
  }

  void run_block(unsigned count, size_t shared_size) {
    num_threads = count;
    while (threads.size() < count) threads.push_back(std::make_unique<Thread>());
    warps.assign(count / 32, Warp{});
    shared.reset(static_cast<char*>(aligned_alloc(16, std::max<size_t>(16, (shared_size + 15) / 16 * 16))));
    memset(shared.get(), 0xff, shared_size);
    for (unsigned i = 0; i < count; ++i) {
      threads[i]->state = Thread::kReady, threads[i]->open.clear(), threads[i]->groups.clear();
      threads[i]->coroutine.begin(run_thread);
    }
    ++num_blocks;
    while (run_warps()) release_barrier();
  }

  // Runs what can run; false once all threads ended.
  bool run_warps() {
    std::vector<unsigned> warp_order(warps.size());
    for (unsigned i = 0; i < warp_order.size(); ++i) warp_order[i] = i;
    std::shuffle(warp_order.begin(), warp_order.end(), order);
    for (const unsigned warp : warp_order)
      for (bool any = true; any;) {
        any = false;
        const unsigned first = order() % 32;
        for (unsigned i = 0; i < 32; ++i) {
          const unsigned index = warp * 32 + (first + i) % 32;
          if (threads[index]->state != Thread::kReady) continue;
          running = index, any = true;
          threads[index]->coroutine.resume();
        }
      }
    for (unsigned i = 0; i < num_threads; ++i)
      if (threads[i]->state != Thread::kDone) return true;
    return false;
  }

  void release_barrier() {
    for (unsigned i = 0; i < num_threads; ++i) {
      if (threads[i]->state == Thread::kInWarp) give_up("a warp waits for lanes that never come");
      if (threads[i]->state == Thread::kDone) give_up("a barrier waits for threads that have ended");
      threads[i]->state = Thread::kReady;
    }
  }

  void barrier() {
    thread().state = Thread::kAtBarrier;
    thread().coroutine.yield();
  }

  // Waits for the whole warp; the lane that comes last does `run` for all.
  void together(void* argument, void (*run)(void* const* arguments)) {
    const unsigned warp = running / 32;
    Warp& own = warps[warp];
    own.arguments[running % 32] = argument;
    if (++own.arrived < 32) {
      thread().state = Thread::kInWarp;
      thread().coroutine.yield();
      return;
    }
    run(own.arguments);
    own.arrived = 0;
    for (unsigned lane = 0; lane < 32; ++lane) threads[warp * 32 + lane]->state = Thread::kReady;
  }
};

struct ThreadIndex {
  struct {
    operator unsigned() const { return Machine::instance().running; }
  } x;
};

template <class Arguments>
void run_grid(void (*kernel)(Arguments), Index grid, unsigned num_threads, size_t shared_size,
              const Arguments& arguments) {
  Machine& machine = Machine::instance();
  machine.body = [&] { kernel(arguments); };
  machine.grid = grid;
  const unsigned count = grid.x * grid.y * grid.z;
  std::vector<unsigned> blocks(count);
  for (unsigned i = 0; i < count; ++i) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), machine.order);
  for (const unsigned block : blocks) {
    machine.block_index = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
    machine.run_block(num_threads, shared_size);
  }
}

inline float float_of(uint32_t bits) {
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}
inline uint32_t bits_of(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

// What a tensor core keeps of a sum: it rounds towards zero.
inline float cut_off(double sum) {
  const float nearest = static_cast<float>(sum);
  return fabs(static_cast<double>(nearest)) > fabs(sum) && isfinite(sum) ? nextafterf(nearest, 0) : nearest;
}

// One warp's mma.sync: D (16 by 8) = A (16 by K) B (K by 8) + D, from the registers of 32 lanes.
template <class Sum>
struct Mma {
  Sum* sums;
  const uint32_t *rows, *columns;
};

// The number of one element of a register: its bits, and where PTX's tables say that it belongs.
struct Tf32Element {
  static constexpr unsigned kInputs = 8, kPerRegister = 1;
  static double value(uint32_t word, unsigned) { return float_of(word & 0xffffe000u); }
};
struct Bfloat16Element {
  static constexpr unsigned kInputs = 16, kPerRegister = 2;
  static double value(uint32_t word, unsigned part) { return float_of((word >> 16 * part & 0xffffu) << 16); }
};
struct Int8Element {
  static constexpr unsigned kInputs = 32, kPerRegister = 4;
  static double value(uint32_t word, unsigned part) { return static_cast<int8_t>(word >> 8 * part & 0xffu); }
};

// Row and input of element i of A, and input and column of element i of B, of the lane with groupID g and
// threadID_in_group t. Three tables of the manual, as they stand there.
struct Place {
  unsigned first, second;
};
inline Place place_in_rows(unsigned inputs, unsigned i, unsigned g, unsigned t) {
  if (inputs == 8) return {i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4};
  if (inputs == 16) return {i < 2 || (4 <= i && i < 6) ? g : g + 8, t * 2 + (i & 1) + (i < 4 ? 0 : 8)};
  return {i < 4 || (8 <= i && i < 12) ? g : g + 8, t * 4 + (i & 3) + (i < 8 ? 0 : 16)};
}
inline Place place_in_columns(unsigned inputs, unsigned i, unsigned g, unsigned t) {
  if (inputs == 8) return {i == 0 ? t : t + 4, g};
  if (inputs == 16) return {t * 2 + (i & 1) + (i < 2 ? 0 : 8), g};
  return {t * 4 + (i & 3) + (i < 4 ? 0 : 16), g};
}

template <class Element, class Sum>
void run_mma(void* const* arguments) {
  double a[16][Element::kInputs], b[Element::kInputs][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const Mma<Sum>& of = *static_cast<const Mma<Sum>*>(arguments[lane]);
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4 * Element::kPerRegister; ++i) {
      const Place place = place_in_rows(Element::kInputs, i, g, t);
      a[place.first][place.second] = Element::value(of.rows[i / Element::kPerRegister], i % Element::kPerRegister);
    }
    for (unsigned i = 0; i < 2 * Element::kPerRegister; ++i) {
      const Place place = place_in_columns(Element::kInputs, i, g, t);
      b[place.first][place.second] = Element::value(of.columns[i / Element::kPerRegister], i % Element::kPerRegister);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    const Mma<Sum>& of = *static_cast<const Mma<Sum>*>(arguments[lane]);
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = i < 2 ? g : g + 8, column = t * 2 + (i & 1);
      double sum = of.sums[i];
      for (unsigned input = 0; input < Element::kInputs; ++input) sum += a[row][input] * b[input][column];
      if constexpr (std::is_same_v<Sum, int>) of.sums[i] = static_cast<Sum>(sum);
      else of.sums[i] = cut_off(sum);
    }
  }
}

struct Shuffle {
  uint32_t word;
  unsigned from;
  uint32_t got;
};
inline void run_shuffle(void* const* arguments) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    Shuffle& own = *static_cast<Shuffle*>(arguments[lane]);
    own.got = static_cast<Shuffle*>(arguments[own.from % 32])->word;
  }
}

}  // namespace emulator

#define threadIdx (emulator::ThreadIndex{})
#define blockIdx (emulator::Machine::instance().block_index)
#define gridDim (emulator::Machine::instance().grid)
#define __syncthreads() emulator::Machine::instance().barrier()
#define __threadfence() static_cast<void>(0)

inline unsigned atomicAdd(unsigned* to, unsigned number) {
  const unsigned before = *to;
  *to += number;
  return before;
}

namespace qin::cuda {

constexpr bool kTensorCores = QIN_EMULATED_ARCHITECTURE >= 800;

using Stream = void*;
using Grid = emulator::Index;

inline uint4* shared_memory() { return reinterpret_cast<uint4*>(emulator::Machine::instance().shared.get()); }

inline float as_float(uint32_t bits) { return emulator::float_of(bits); }
inline uint32_t as_bits(float number) { return emulator::bits_of(number); }

inline uint32_t shuffle(uint32_t word, unsigned lane) {
  emulator::Shuffle own{word, lane, 0};
  emulator::Machine::instance().together(&own, emulator::run_shuffle);
  return own.got;
}
inline uint32_t shuffle_xor(uint32_t word, unsigned mask) { return shuffle(word, threadIdx.x % 32 ^ mask); }

inline void copy_async(uint4* to, const uint4* from) {
  if constexpr (kTensorCores) emulator::Machine::instance().thread().open.push_back({to, from});
  else *to = *from;
}
inline void close_group() {
  emulator::Thread& own = emulator::Machine::instance().thread();
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
template <int kMayBeOpen>
void wait_for_groups() {
  auto& groups = emulator::Machine::instance().thread().groups;
  while (groups.size() > kMayBeOpen) {
    for (const emulator::Copy& copy : groups.front()) *copy.to = *copy.from;
    groups.erase(groups.begin());
  }
}

inline float load_fresh(const float* from) { return *from; }

template <class Element, class Sum>
void emulated_mma(Sum (&sums)[4], const uint4& rows, const uint2& columns) {
  const uint32_t of_rows[] = {rows.x, rows.y, rows.z, rows.w}, of_columns[] = {columns.x, columns.y};
  emulator::Mma<Sum> own{sums, of_rows, of_columns};
  emulator::Machine::instance().together(&own, emulator::run_mma<Element, Sum>);
}
inline void mma_tf32(float (&sums)[4], const uint4& rows, const uint2& columns) {
  emulated_mma<emulator::Tf32Element>(sums, rows, columns);
}
inline void mma_bfloat16(float (&sums)[4], const uint4& rows, const uint2& columns) {
  emulated_mma<emulator::Bfloat16Element>(sums, rows, columns);
}
inline void mma_int8(int (&sums)[4], const uint4& rows, const uint2& columns) {
  emulated_mma<emulator::Int8Element>(sums, rows, columns);
}

inline uint32_t rounded_to_tf32(float number) {
  if (isnan(number)) return 0x7fffe000u;
  return isinf(number) ? as_bits(number) : (as_bits(number) + 0x1000u) & 0xffffe000u;
}

inline uint32_t bfloat16_pair(float low, float high) {
  const auto rounded = [](float number) {
    const uint32_t bits = as_bits(number);
    return isnan(number) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

inline int dot4(uint32_t a, uint32_t b, int sum) {
  for (unsigned part = 0; part < 4; ++part)
    sum += static_cast<int8_t>(a >> 8 * part & 0xffu) * static_cast<int8_t>(b >> 8 * part & 0xffu);
  return sum;
}

template <class Arguments>
const char* allow_shared_memory(void (*)(Arguments), size_t) {
  return nullptr;
}

template <class Arguments>
const char* launch(void (*kernel)(Arguments), Grid grid, unsigned num_threads, size_t shared_size, Stream,
                   const Arguments& arguments) {
  if (num_threads % 32 || num_threads > 1024 || !grid.x || !grid.y || !grid.z) return "a launch that no GPU takes";
  emulator::run_grid(kernel, grid, num_threads, shared_size, arguments);
  return nullptr;
}

}  // namespace qin::cuda
