// Makes an InstructionSet of everything above, compiled as the including file is. Each isa_*.cpp is one.
#pragma once

#include "attention.h"
#include "kernels.h"
#include "tower.h"

#define QIN_INSTRUCTION_SET(identifier, label)                                                                     \
  namespace qin {                                                                                                  \
  extern const InstructionSet identifier;                                                                          \
  const InstructionSet identifier = {label, attention_scratch, attention, packed_size, pack, tower_scratch, tower}; \
  }
