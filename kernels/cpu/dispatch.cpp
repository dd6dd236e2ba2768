// Chooses the instruction set at run time, and tells of it.
//
// QIN_WITH_<NAME> is defined for every isa_*.cpp that was compiled, QIN_SOURCES as the digest of all sources and flags.

#include <stdio.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qin {

extern const InstructionSet generic;
#ifdef QIN_WITH_AVX2
extern const InstructionSet avx2;
#endif
#ifdef QIN_WITH_AVX512
extern const InstructionSet avx512;
#endif
#ifdef QIN_WITH_AVX512_VNNI
extern const InstructionSet avx512_vnni;
#endif
#ifdef QIN_WITH_AVX512_BF16
extern const InstructionSet avx512_bf16;
#endif
#ifdef QIN_WITH_NEON_DOT
extern const InstructionSet neon_dot;
#endif
#ifdef QIN_WITH_NEON_BF16
extern const InstructionSet neon_bf16;
#endif

namespace {

#if defined(__x86_64__)
// What the processor can run and the operating system keeps the registers of. Asked of the processor itself:
// __builtin_cpu_supports answers no to everything in libraries that zig links.
struct Features {
  bool avx2 = false, avx512 = false, vnni = false, bf16 = false;

  Features() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    const bool saves_registers = bit(c, 27), fma = bit(c, 12);
    if (!saves_registers || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    const unsigned saved = saved_registers();
    avx2 = fma && bit(b, 5) && (saved & 0x06) == 0x06;
    avx512 = avx2 && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31) && (saved & 0xe6) == 0xe6;
    vnni = avx512 && bit(c, 11);
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) bf16 = vnni && bit(a, 5);
  }

  static bool bit(unsigned word, int position) { return word >> position & 1; }
  static unsigned saved_registers() {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
  }
};
#endif

constexpr size_t kMostSets = 8;

struct Usable {
  const InstructionSet* sets[kMostSets] = {};
  char names[128] = {};

  Usable() {
    size_t count = 0;
    const auto add = [&](const InstructionSet& set, bool usable) {
      if (usable) sets[count++] = &set;
    };
#if defined(__x86_64__)
    [[maybe_unused]] const Features has;
#ifdef QIN_WITH_AVX512_BF16
    add(avx512_bf16, has.bf16);
#endif
#ifdef QIN_WITH_AVX512_VNNI
    add(avx512_vnni, has.vnni);
#endif
#ifdef QIN_WITH_AVX512
    add(avx512, has.avx512);
#endif
#ifdef QIN_WITH_AVX2
    add(avx2, has.avx2);
#endif
#elif defined(__aarch64__) && defined(__linux__)
    // Bits of the kernel's interface: ASIMDDP of HWCAP, BF16 of HWCAP2.
    [[maybe_unused]] const bool has_dot = getauxval(AT_HWCAP) & (1ul << 20);
    [[maybe_unused]] const bool has_bf16 = has_dot && getauxval(AT_HWCAP2) & (1ul << 14);
#ifdef QIN_WITH_NEON_BF16
    add(neon_bf16, has_bf16);
#endif
#ifdef QIN_WITH_NEON_DOT
    add(neon_dot, has_dot);
#endif
#endif
    add(generic, true);
    for (size_t i = 0; i < count; ++i) {
      const size_t length = strlen(names);
      snprintf(names + length, sizeof names - length, i ? ",%s" : "%s", sets[i]->name);
    }
  }
};

const Usable usable;

const InstructionSet* chosen = nullptr;

}  // namespace

const InstructionSet* const* instruction_sets() { return usable.sets; }

const InstructionSet& instruction_set() {
  const InstructionSet* set = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  return set ? *set : *usable.sets[0];
}

}  // namespace qin

#define QIN_EXPORT extern "C" __attribute__((visibility("default")))

// The names of the usable instruction sets, best first, separated by commas.
QIN_EXPORT const char* qin_instruction_sets() { return qin::usable.names; }

// The name of the one that kernels made from now on use.
QIN_EXPORT const char* qin_instruction_set() { return qin::instruction_set().name; }

// Takes another one for kernels made from now on, "auto" being the best; -1 if this machine cannot run it.
QIN_EXPORT int qin_use_instruction_set(const char* name) {
  for (const qin::InstructionSet* const* set = qin::instruction_sets(); *set; ++set)
    if (!strcmp(name, "auto") || !strcmp(name, (*set)->name)) {
      __atomic_store_n(&qin::chosen, *set, __ATOMIC_RELEASE);
      return 0;
    }
  return -1;
}

// What the library was compiled from, to be compared with the sources beside it.
QIN_EXPORT const char* qin_sources() { return QIN_SOURCES; }
