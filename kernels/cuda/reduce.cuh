// Sums and maxima over a warp and a block, the same bits in every thread and every run. All threads take part, in whole
// warps.
//
//     const float squares = block_sum(of_this_thread);
#pragma once

#include "gpu.h"
#include "kernels/cuda/grid.h"

namespace limbeck::kernels {

inline constexpr unsigned full_warp = 0xffffffffU;

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// Of two numbers the larger; of a number and a NaN the number.
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a || a != a ? b : a;
  }
};

/// combine over the lanes, which is commutative.
template <class T, class F>
__device__ T warp_reduce(T value, F combine) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(full_warp, value, distance));
  return value;
}

template <class T>
__device__ T warp_sum(T value) {
  return warp_reduce(value, Plus{});
}

/// combine over the block's threads, with `none` for those that it lacks.
template <class T, class F>
__device__ T block_reduce(T value, T none, F combine) {
  __shared__ T of_warp[32];
  value = warp_reduce(value, combine);
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
  if (warps == 1) return value;
  __syncthreads();  // the last call's results were read
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return warp_reduce(lane < warps ? of_warp[lane] : none, combine);
}

template <class T>
__device__ T block_sum(T value) {
  return block_reduce(value, T{0}, Plus{});
}

}  // namespace limbeck::kernels
