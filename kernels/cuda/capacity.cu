#include "kernels/capacity.h"

#include <bit>
#include <cmath>
#include <type_traits>

#include "kernels/cuda/ordered_sum.cuh"
#include "kernels/cuda/sequences.cuh"

namespace limbeck::kernels {
namespace {

/// An expert's of a sequence of so many assignments.
__device__ double room_for(std::int64_t assignments, const CapacityShape& shape, double factor) {
  return std::ceil(factor * static_cast<double>(assignments) / static_cast<double>(shape.experts));
}

/// A block is one warp, and takes sequences in turn: their assignments 32 at a time.
__global__ void capacity_kernel(const std::int32_t* selection, Sequences sequences, std::int32_t* kept,
                                CapacityShape shape, double factor, int bits) {
  auto* taken = gpu::dynamic_shared<std::int32_t>();  // [experts]
  const unsigned lane = threadIdx.x, before = (1U << lane) - 1;
  for (std::int64_t s = blockIdx.x; s < *sequences.count; s += gridDim.x) {
    const std::int64_t begin = sequences.begin(s) * shape.selected, end = sequences.end(s) * shape.selected;
    const double room = room_for(end - begin, shape, factor);
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

/// Scores as whole numbers in their order: NaN is 0, and both zeros are one.
template <class T>
__device__ auto ordered_bits(T score) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits sign = Bits{1} << (8 * sizeof(T) - 1);
  if (score != score) return Bits{0};
  const auto bits = std::bit_cast<Bits>(score == T{0} ? T{0} : score);
  return (bits & sign) != 0 ? ~bits : bits | sign;
}

/// A block is one warp, and takes experts of sequences in turn: finds the least score that is taken, from its first
/// byte to its last by how many tokens have which; and then takes those above it, and of those that tie the first.
template <class T>
__global__ void choose_kernel(const T* scores, Sequences sequences, std::int32_t* selection, CapacityShape shape,
                              double factor) {
  using Bits = decltype(ordered_bits(T{}));
  __shared__ std::int32_t counts[256];
  const unsigned lane = threadIdx.x, before = (1U << lane) - 1;
  for (std::int64_t i = blockIdx.x; i < *sequences.count * shape.experts; i += gridDim.x) {
    const std::int64_t s = i / shape.experts, e = i % shape.experts;
    const std::int64_t begin = sequences.begin(s), end = sequences.end(s), size = end - begin;
    const double room = room_for(size * shape.selected, shape, factor);
    std::int64_t left = room < static_cast<double>(size) ? static_cast<std::int64_t>(room) : size;  // of those that tie
    const auto bits_of = [&](std::int64_t t) { return ordered_bits(scores[t * shape.experts + e]); };
    Bits least = 0;
    for (int shift = 8 * (static_cast<int>(sizeof(T)) - 1); shift >= 0; shift -= 8) {
      for (unsigned k = lane; k < 256; k += warp_size) counts[k] = 0;
      __syncwarp();
      for (std::int64_t t = begin + lane; t < end; t += warp_size) {
        const Bits bits = bits_of(t);
        if ((bits ^ least) >> shift < 256) atomicAdd(&counts[bits >> shift & 255], 1);
      }
      __syncwarp();
      int byte = 255;
      while (counts[byte] < left) left -= counts[byte--];
      least |= static_cast<Bits>(byte) << shift;
      __syncwarp();
    }
    for (std::int64_t first = begin; first < end; first += warp_size) {
      const std::int64_t t = first + lane;
      const Bits bits = t < end ? bits_of(t) : 0;
      const bool ties = t < end && bits == least;
      const unsigned tied = __ballot_sync(full_warp, ties);
      if (t < end)
        selection[t * shape.experts + e] =
            bits > least || (ties && __popc(tied & before) < left) ? static_cast<std::int32_t>(e) : -1;
      left -= __popc(tied);
    }
  }
}

struct Untaken {
  const std::int32_t* selection;
  std::int64_t selected;
  template <int N, bool Whole>
  __device__ double run(std::int64_t t, int /*count: N is 1*/) const {
    for (std::int64_t a = t * selected; a < (t + 1) * selected; ++a)
      if (selection[a] >= 0) return 0;
    return 1;
  }
};

struct StoreCount {
  std::int64_t* to;
  __device__ void operator()(double total) const { *to = static_cast<std::int64_t>(total); }
};

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

template <class D, class T>
void choose_tokens(const D& cuda, const T* scores, const std::int32_t* sequence, std::int32_t* selection,
                   const CapacityShape& shape, double factor) {
  if (shape.tokens == 0) return;
  Scratch scratch(cuda);
  const Sequences sequences = find_sequences(cuda, scratch, sequence, shape.tokens);
  gpu::launch(cuda, choose_kernel<T>, blocks_for(cuda, shape.tokens * shape.experts), dim3(warp_size), 0, scores,
              sequences, selection, shape, factor);
}

template <class D>
void count_untaken(const D& cuda, const std::int32_t* selection, std::int64_t tokens, std::int64_t selected,
                   std::int64_t* count) {
  Scratch scratch(cuda);
  ordered_sum<1>(cuda, scratch, tokens, Untaken{selection, selected}, StoreCount{count}, selection);
}

template void limit_capacity(const Cuda&, const std::int32_t*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                             double);
template void choose_tokens(const Cuda&, const float*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                            double);
template void choose_tokens(const Cuda&, const double*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                            double);
template void count_untaken(const Cuda&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t*);

}  // namespace limbeck::kernels
