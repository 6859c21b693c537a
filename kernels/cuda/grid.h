// How many threads a kernel is given.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned usual_threads = 256;  // of a block: eight of them fill a multiprocessor

inline constexpr unsigned most_row_threads = 512;  // of threads_for_row, for __launch_bounds__

/// Blocks for `n` pieces of work that each block takes in turn, from its own number on by the number of blocks: enough
/// to fill the GPU a few times over.
inline dim3 blocks_for(const Cuda& cuda, std::int64_t n) {
  return dim3(static_cast<unsigned>(std::min<std::int64_t>(n, std::int64_t{32} * cuda.state->num_multiprocessors)));
}

/// Threads of a block that has a row of `n` vectors at a time: about four vectors a thread, in whole warps.
inline dim3 threads_for_row(std::int64_t n, unsigned most = most_row_threads) {
  const std::int64_t warps = std::clamp<std::int64_t>(ceil_div(n, std::int64_t{4} * warp_size), 1, most / warp_size);
  return dim3(static_cast<unsigned>(warps) * warp_size);
}

}  // namespace limbeck::kernels
