// What a test breaks (emulation.h).
#pragma once

#include <chrono>

#include "tests/cuda_emulation/emulation.h"

namespace limbeck::emulation {

Links links();
/// When they became what they are; with the machine's lock held.
std::chrono::steady_clock::time_point links_since();
bool mismatches_hang();
const char* spoiled_operations();

}  // namespace limbeck::emulation
