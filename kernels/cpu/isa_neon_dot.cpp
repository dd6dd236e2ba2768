#include "isa.h"

QIN_INSTRUCTION_SET(neon_dot, "neon_dot")
