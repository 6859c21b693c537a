#include "kernels/capacity.h"

#include <bit>
#include <cmath>

#include "kernels/cuda/sequences.cuh"

namespace limbeck::kernels {
namespace {

/// A block is one warp, and takes sequences in turn: their assignments 32 at a time.
__global__ void capacity_kernel(const std::int32_t* selection, Sequences sequences, std::int32_t* kept,
                                CapacityShape shape, double factor, int bits) {
  auto* taken = gpu::dynamic_shared<std::int32_t>();  // [experts]
  const unsigned lane = threadIdx.x, before = (1U << lane) - 1;
  for (std::int64_t s = blockIdx.x; s < *sequences.count; s += gridDim.x) {
    const std::int64_t begin = sequences.begin(s) * shape.selected, end = sequences.end(s) * shape.selected;
    const double room = std::ceil(factor * static_cast<double>(end - begin) / static_cast<double>(shape.experts));
    for (std::int64_t e = lane; e < shape.experts; e += warp_size) taken[e] = 0;
    __syncwarp();
    for (std::int64_t first = begin; first < end; first += warp_size) {
      const std::int64_t a = first + lane;
      const std::int32_t expert = a < end ? selection[a] : -1;
      const unsigned lanes = lanes_with(expert < 0 ? static_cast<int>(shape.experts) : expert, bits);
      const std::int32_t so_far = expert >= 0 ? taken[expert] : 0;
      __syncwarp();
      if (expert >= 0 && (lanes & before) == 0) taken[expert] = so_far + __popc(lanes);
      __syncwarp();
      if (a < end) kept[a] = expert >= 0 && so_far + __popc(lanes & before) < room ? expert : -1;
    }
    __syncwarp();
  }
}

}  // namespace

template <class D>
void limit_capacity(const D& cuda, const std::int32_t* selection, const std::int32_t* sequence, std::int32_t* kept,
                    const CapacityShape& shape, double factor) {
  if (shape.tokens == 0) return;
  Scratch scratch(cuda);
  const Sequences sequences = find_sequences(cuda, scratch, sequence, shape.tokens);
  gpu::launch(cuda, capacity_kernel, blocks_for(cuda, shape.tokens), dim3(warp_size),
              static_cast<std::size_t>(shape.experts) * sizeof(std::int32_t), selection, sequences, kept, shape, factor,
              std::bit_width(static_cast<unsigned>(shape.experts)));
}

template void limit_capacity(const Cuda&, const std::int32_t*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                             double);

}  // namespace limbeck::kernels
