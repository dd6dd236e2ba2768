#include "isa.h"

QIN_INSTRUCTION_SET(avx512_vnni, "avx512_vnni")
