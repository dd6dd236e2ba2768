// Chooses the instruction set at run time, and tells of it.
//
// QIN_WITH_<NAME> is defined for every isa_*.cpp that was compiled.

#include <stdio.h>
#include <string.h>

#include "kernels.h"

#if defined(__aarch64__) && defined(__linux__)
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
    __builtin_cpu_init();
    [[maybe_unused]] const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    [[maybe_unused]] const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                                             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                                             __builtin_cpu_supports("avx512vl");
    [[maybe_unused]] const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
#ifdef QIN_WITH_AVX512_BF16
    add(avx512_bf16, has_vnni && __builtin_cpu_supports("avx512bf16"));
#endif
#ifdef QIN_WITH_AVX512_VNNI
    add(avx512_vnni, has_vnni);
#endif
#ifdef QIN_WITH_AVX512
    add(avx512, has_avx512);
#endif
#ifdef QIN_WITH_AVX2
    add(avx2, has_avx2);
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
