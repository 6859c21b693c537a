// Weights in blocks (kernels/blocks.h) as values on the GPU.
#pragma once

#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {

/// to[i] = value first + i, rounded once to T (float or bf16), for i < count; both are whole blocks. The values are the
/// host's, bit by bit. Queued.
template <class T>
void expand(const Cuda& cuda, const Blocks& blocks, std::int64_t first, std::int64_t count, T* to);

}  // namespace limbeck::kernels
