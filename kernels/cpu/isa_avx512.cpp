#include "isa.h"

QIN_INSTRUCTION_SET(avx512, "avx512")
