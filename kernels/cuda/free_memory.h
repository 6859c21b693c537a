// How much of a GPU's memory is nobody's.
#pragma once

#include <cstdint>

namespace limbeck::kernels {

/// Bytes, of a GPU by its number among those that the process sees. Throws std::runtime_error in CUDA's words.
std::int64_t free_cuda_bytes(int ordinal);

}  // namespace limbeck::kernels
