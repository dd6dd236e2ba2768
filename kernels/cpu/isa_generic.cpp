#include "isa.h"

QIN_INSTRUCTION_SET(generic, "generic")
