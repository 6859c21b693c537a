// What nvcc gives every .cu file before its first line, for the host's compiler (which is told to include this first).
#pragma once

#include <cuda_runtime.h>

#include "tests/cuda_emulation/device/atomics.h"
#include "tests/cuda_emulation/device/indices.h"
#include "tests/cuda_emulation/device/intrinsics.h"
#include "tests/cuda_emulation/device/warp_functions.h"

// A promise to nvcc, of which the host's compiler knows nothing.
#undef __launch_bounds__
#define __launch_bounds__(...)

// A block's own: its threads run on one thread of the machine, whose blocks follow each other.
#undef __shared__
#define __shared__ static thread_local
