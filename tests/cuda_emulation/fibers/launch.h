// Kernels as they are launched: checked, and run block by block in an order that is drawn.
#pragma once

#include <cstdint>

#include "tests/cuda_emulation/fibers/block.h"

namespace limbeck::emulation {

/// Throws std::runtime_error that names the kernel where CUDA would refuse grid, block or shared memory.
void check_launch(const Launch& launch);

/// Runs all blocks of a launch on this thread of the machine. Blocks are not ordered in CUDA; here they run one after
/// another, so that one that waits for another is stuck.
void run_launch(const Launch& launch);

/// What is drawn: of the environment's EMULATION_SEED at first, 1 without it. A thread of the machine takes the seed
/// when it first runs a kernel.
std::uint64_t seed();
void set_seed(std::uint64_t seed);

}  // namespace limbeck::emulation
