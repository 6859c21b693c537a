// What a test breaks (emulation.h).
#pragma once

#include "tests/cuda_emulation/emulation.h"

namespace limbeck::emulation {

Links links();
bool mismatches_hang();

}  // namespace limbeck::emulation
