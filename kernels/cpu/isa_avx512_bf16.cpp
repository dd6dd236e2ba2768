#include "isa.h"

QIN_INSTRUCTION_SET(avx512_bf16, "avx512_bf16")
