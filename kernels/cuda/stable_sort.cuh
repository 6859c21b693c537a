// A stable counting sort: a histogram a tile, the sums of all that comes before, and a place for each item. An item's
// place depends on the items alone, not on the order in which the GPU takes them.
//
//     struct ByExpert {
//       __device__ int bin(std::int64_t i) const;                            // 0 to bins - 1; -1: left out
//       __device__ void place(std::int64_t i, std::int32_t place) const;     // -1 where it was left out
//     };
//     const std::int32_t* starts = stable_sort(cuda, scratch, n, bins, ByExpert{...});
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scratch.h"

namespace limbeck::kernels {

inline constexpr int sort_tile = 2048;                        // items of a block
inline constexpr int sort_warps = usual_threads / warp_size;  // each has a part of the tile, in the order of the items

/// counts[bin][tile]
template <class F>
__global__ void sort_histogram_kernel(F items, std::int64_t n, int bins, std::int32_t* counts) {
  auto* of_tile = gpu::dynamic_shared<std::int32_t>();
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += usual_threads) of_tile[b] = 0;
  __syncthreads();
  for (int k = static_cast<int>(threadIdx.x); k < sort_tile; k += usual_threads) {
    const std::int64_t i = std::int64_t{blockIdx.x} * sort_tile + k;
    const int bin = i < n ? items.bin(i) : -1;
    if (bin >= 0) atomicAdd(&of_tile[bin], 1);
  }
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += usual_threads)
    counts[std::int64_t{b} * gridDim.x + blockIdx.x] = of_tile[b];
}

/// sums[i] = the sum of the counts [n] before i, for i <= n; they may be the counts. One block, each of its threads
/// with a stretch.
template <class T>
__global__ void exclusive_sums_kernel(const T* counts, std::int64_t n, T* sums) {
  __shared__ T of_warp[32];
  const std::int64_t stretch = (n + blockDim.x - 1) / blockDim.x;
  const std::int64_t begin = threadIdx.x * stretch < n ? threadIdx.x * stretch : n;
  const std::int64_t end = begin + stretch < n ? begin + stretch : n;
  T sum = 0;
  for (std::int64_t i = begin; i < end; ++i) sum += counts[i];
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  T up_to = sum;  // of the warp's threads up to this one
  for (unsigned distance = 1; distance < warp_size; distance *= 2) {
    const T before = __shfl_up_sync(full_warp, up_to, distance);
    if (lane >= distance) up_to += before;
  }
  if (lane == warp_size - 1) of_warp[warp] = up_to;
  __syncthreads();
  T next = up_to - sum;
  for (unsigned w = 0; w < warp; ++w) next += of_warp[w];
  for (std::int64_t i = begin; i < end; ++i) {
    const T count = counts[i];
    sums[i] = next;
    next += count;
  }
  if (threadIdx.x == blockDim.x - 1) sums[n] = next;
}

template <class T>
void exclusive_sums(const Cuda& cuda, const T* counts, std::int64_t n, T* sums) {
  gpu::launch(cuda, exclusive_sums_kernel<T>, dim3(1), dim3(1024), 0, counts, n, sums);
}

/// The lanes with this lane's number, which has that many bits.
__device__ inline unsigned lanes_with(int number, int bits) {
  unsigned alike = full_warp;
  for (int b = 0; b < bits; ++b) {
    const bool is_set = (number >> b & 1) != 0;
    const unsigned set = __ballot_sync(full_warp, is_set);
    alike &= is_set ? set : ~set;
  }
  return alike;
}

/// f(i, bin, lanes) for the items of a warp's part, 32 at a time in their order; `lanes`: those of the same bin.
template <class F, class G>
__device__ void for_part(const F& items, std::int64_t n, int bins, int bits, G f) {
  constexpr int part = sort_tile / sort_warps;
  const int lane = static_cast<int>(threadIdx.x % warp_size), warp = static_cast<int>(threadIdx.x / warp_size);
  for (int k = lane; k < part; k += warp_size) {
    const std::int64_t i = std::int64_t{blockIdx.x} * sort_tile + warp * part + k;
    const int bin = i < n ? items.bin(i) : -1;
    f(i, bin, lanes_with(bin < 0 ? bins : bin, bits));
  }
}

template <class F>
__global__ void sort_place_kernel(F items, std::int64_t n, int bins, int bits, const std::int32_t* starts) {
  auto* next_of = gpu::dynamic_shared<std::int32_t>();  // [warps][bins]
  for (int b = static_cast<int>(threadIdx.x); b < sort_warps * bins; b += usual_threads) next_of[b] = 0;
  __syncthreads();
  const unsigned before = (1U << threadIdx.x % warp_size) - 1;  // the lanes before this one
  std::int32_t* next = next_of + static_cast<int>(threadIdx.x / warp_size) * bins;
  for_part(items, n, bins, bits, [=](std::int64_t, int bin, unsigned lanes) {
    if (bin >= 0 && (lanes & before) == 0) next[bin] += __popc(lanes);
    __syncwarp();
  });
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += usual_threads) {
    std::int32_t start = starts[std::int64_t{b} * gridDim.x + blockIdx.x];
    for (int w = 0; w < sort_warps; ++w) {
      const std::int32_t count = next_of[w * bins + b];
      next_of[w * bins + b] = start;
      start += count;
    }
  }
  __syncthreads();
  for_part(items, n, bins, bits, [=](std::int64_t i, int bin, unsigned lanes) {
    const std::int32_t first = bin >= 0 ? next[bin] : 0;
    __syncwarp();
    if (bin >= 0 && (lanes & before) == 0) next[bin] = first + __popc(lanes);
    __syncwarp();
    if (i < n) items.place(i, bin >= 0 ? first + __popc(lanes & before) : -1);
  });
}

/// Tiles of n items; sort_starts of them are those of a bin.
inline std::int64_t sort_tiles(std::int64_t n) { return ceil_div(n, sort_tile); }

/// The first place of bin b is that of starts[b * sort_tiles(n)], for b <= bins, in scratch memory. n below 2^31.
template <class F>
const std::int32_t* stable_sort(const Cuda& cuda, Scratch& scratch, std::int64_t n, std::int64_t bins, const F& items) {
  const std::int64_t tiles = sort_tiles(n);
  auto* starts = scratch.take<std::int32_t>(bins * tiles + 1);
  const dim3 grid(static_cast<unsigned>(tiles)), block(usual_threads);
  const std::size_t shared = static_cast<std::size_t>(bins) * sizeof(std::int32_t);
  const int num_bins = static_cast<int>(bins);
  if (n > 0) gpu::launch(cuda, sort_histogram_kernel<F>, grid, block, shared, items, n, num_bins, starts);
  exclusive_sums(cuda, starts, bins * tiles, starts);
  const int bits = std::bit_width(static_cast<unsigned>(bins));  // one number more, for what is left out
  if (n > 0)
    gpu::launch(cuda, sort_place_kernel<F>, grid, block, sort_warps * shared, items, n, num_bins, bits,
                static_cast<const std::int32_t*>(starts));
  return starts;
}

}  // namespace limbeck::kernels
