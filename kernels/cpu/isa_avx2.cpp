#include "isa.h"

QIN_INSTRUCTION_SET(avx2, "avx2")
