// A GPU without a GPU. Kernels (.cu) and the code that launches them are compiled by the host's compiler against
// NVIDIA's own headers; what they call is here. It is for tests and never in the product.
//
//   fibers/   a block's threads take turns, and wait for each other at barriers, in warp functions, in products of the
//             tensor cores; asynchronous copies come as late as they may
//   device/   CUDA's names for that, which the compiler reads before a .cu file (builtins.h)
//   gpu/      gpu.h in place of kernels/cuda/gpu/gpu.h
//   samples/  kernels for its own tests, right ones and such as break a rule
//
// What may come in any order is drawn by a seed: lanes, warps, blocks. What breaks CUDA's rules ends the program with
// one line, "cuda emulation: KERNEL, block [x,y,z], thread [x,y,z]: ...".
//
// What it cannot see: whether accesses of a warp are coalesced, conflicts of banks, occupancy and registers, memory
// that is weakly ordered within a launch, instructions of the tensor cores other than mma.m16n8k16 and ldmatrix.x4, how
// exact fast arithmetic is (__expf and its like are the host's), blocks that wait for each other, static __shared__
// memory that is read before it is written (it keeps the last block's values), sub-warps that go different ways with
// masks of their own at once.
#pragma once

#include "tests/cuda_emulation/fibers/launch.h"  // seed(), set_seed()
