// What a test breaks (emulation.h).
#pragma once

#include "tests/cuda_emulation/emulation.h"

namespace limbeck::emulation {

Links links();
bool mismatches_hang();
const char* spoiled_operations();

}  // namespace limbeck::emulation
