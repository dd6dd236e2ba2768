#include "isa.h"

QIN_INSTRUCTION_SET(neon_bf16, "neon_bf16")
