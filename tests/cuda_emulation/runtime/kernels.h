// Launches, queued on a stream.
#pragma once

#include <cuda_runtime.h>

#include "tests/cuda_emulation/fibers/launch.h"

namespace limbeck::emulation {

/// As kernel<<<grid, block, shared_bytes, stream>>>(arguments): the answer is cudaGetLastError's. Throws as
/// check_launch, and where more than 48 KiB of shared memory were not asked for by cudaFuncSetAttribute.
void launch_kernel(const Launch& launch, cudaStream_t stream);

}  // namespace limbeck::emulation
