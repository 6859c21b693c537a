// Sequences on the GPU: the runs of equal numbers in a batch's column.
//
//     const Sequences sequences = find_sequences(cuda, scratch, sequence, tokens);
//     ... for (int s = blockIdx.x; s < *sequences.count; s += gridDim.x)
//           for (t = sequences.begin(s); t < sequences.end(s); ++t)
#pragma once

#include <cstdint>

#include "kernels/cuda/stable_sort.cuh"

namespace limbeck::kernels {

struct Sequences {
  const std::int32_t* starts;
  const std::int32_t* count;  // at most `tokens`
  std::int64_t tokens;
  __device__ std::int64_t begin(std::int64_t s) const { return starts[s]; }
  __device__ std::int64_t end(std::int64_t s) const { return s + 1 < *count ? starts[s + 1] : tokens; }
};

/// The tokens that begin a sequence, in their order: a sort with one bin, which leaves the others out.
struct SequenceStarts {
  const std::int32_t* sequence;
  std::int32_t* starts;
  __device__ int bin(std::int64_t t) const { return t == 0 || sequence[t] != sequence[t - 1] ? 0 : -1; }
  __device__ void place(std::int64_t t, std::int32_t place) const {
    if (place >= 0) starts[place] = static_cast<std::int32_t>(t);
  }
};

inline Sequences find_sequences(const Cuda& cuda, Scratch& scratch, const std::int32_t* sequence, std::int64_t tokens) {
  auto* starts = scratch.take<std::int32_t>(tokens);
  const std::int32_t* of_bin = stable_sort(cuda, scratch, tokens, 1, SequenceStarts{sequence, starts});
  return {starts, of_bin + sort_tiles(tokens), tokens};
}

}  // namespace limbeck::kernels
