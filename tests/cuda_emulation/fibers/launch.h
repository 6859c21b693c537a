// Kernels as they are launched: checked, and run block by block in an order that is drawn.
#pragma once

#include "tests/cuda_emulation/fibers/block.h"

namespace limbeck::emulation {

/// Throws std::runtime_error that names the kernel where CUDA would refuse grid, block or shared memory.
void check_launch(const Launch& launch);

/// Runs all blocks of a launch on this thread of the machine. Blocks are not ordered in CUDA; here they run one after
/// another, so that one that waits for another is stuck.
void run_launch(const Launch& launch);

}  // namespace limbeck::emulation
