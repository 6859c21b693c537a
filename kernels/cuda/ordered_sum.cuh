// A sum in float64 over n places, in an order that depends on n alone: over parts, then over the parts.
//
//     template <class T>
//     struct Squares {
//       const T* x;
//       template <int N, bool Whole>
//       __device__ double run(std::int64_t i, int count) const;      // the sum over places i to i + count - 1 < i + N
//     };
//     ordered_sum<vector_length<T>>(cuda, scratch, n, Squares<T>{x}, StoreTotal{sum}, x);
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {

/// A part is `length` places, which is a multiple of N times the threads of a block.
template <int N, bool Aligned, class F>
__global__ void part_sums_kernel(F term, std::int64_t n, std::int64_t length, double* parts) {
  const std::int64_t begin = blockIdx.x * length, end = begin + length < n ? begin + length : n;
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x * N; i < end; i += blockDim.x * N) {
    if (Aligned && end - i >= N)
      sum += term.template run<N, true>(i, N);
    else
      sum += term.template run<N, false>(i, static_cast<int>(end - i < N ? end - i : N));
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// finish(Σ parts), by one thread.
template <class F>
__global__ void total_kernel(const double* parts, std::int64_t num_parts, F finish) {
  double sum = 0;
  for (std::int64_t p = threadIdx.x; p < num_parts; p += blockDim.x) sum += parts[p];
  sum = block_sum(sum);
  if (threadIdx.x == 0) finish(sum);
}

struct StoreTotal {
  double* to;
  __device__ void operator()(double total) const { *to = total; }
};

/// finish(total) on the GPU, by one thread. `pointers` are those that the term reads by vectors.
template <int N, class F, class G, class... T>
void ordered_sum(const Cuda& cuda, Scratch& scratch, std::int64_t n, const F& term, const G& finish,
                 const T*... pointers) {
  constexpr std::int64_t round = std::int64_t{usual_threads} * N, most_parts = 1024;
  const std::int64_t length = round * std::max<std::int64_t>(4, ceil_div(n, round * most_parts));
  const std::int64_t num_parts = ceil_div(n, length);
  auto* parts = scratch.take<double>(num_parts);
  const auto kernel = are_aligned<N>(pointers...) ? part_sums_kernel<N, true, F> : part_sums_kernel<N, false, F>;
  if (n > 0)
    gpu::launch(cuda, kernel, dim3(static_cast<unsigned>(num_parts)), dim3(usual_threads), 0, term, n, length, parts);
  gpu::launch(cuda, total_kernel<G>, dim3(1), dim3(usual_threads), 0, static_cast<const double*>(parts), num_parts,
              finish);
}

/// The terms of a sum of squares, each taken in float64.
template <class T>
struct Squares {
  const T* x;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto v = load<N, Whole>(x + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v[j]) * static_cast<double>(v[j]);
    return sum;
  }
};

}  // namespace limbeck::kernels
