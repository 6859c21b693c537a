// Work on n places, each for itself, by vectors where the memory allows it.
//
//     template <class T>
//     struct Halve {
//       const T* x;
//       T* y;
//       template <int N>
//       __device__ void run(std::int64_t i) const;      // places i to i + N - 1
//     };
//     for_each_vector<vector_length<T>>(cuda, n, Halve<T>{x, y}, x, y);
#pragma once

#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {

template <int N, class F>
__global__ void elementwise_kernel(F f, std::int64_t n) {
  const std::int64_t first = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t vectors = n / N;
  for (std::int64_t i = first; i < vectors; i += step) f.template run<N>(i * N);
  for (std::int64_t i = vectors * N + first; i < n; i += step) f.template run<1>(i);
}

/// f.run<N> on as many of n places as vectors cover, f.run<1> on the others: on all where one of `pointers`, the memory
/// that f reads and writes, is not aligned.
template <int N, class F, class... T>
void for_each_vector(const Cuda& cuda, std::int64_t n, const F& f, const T*... pointers) {
  if (n == 0) return;
  const bool aligned = are_aligned<N>(pointers...);
  const auto kernel = aligned ? elementwise_kernel<N, F> : elementwise_kernel<1, F>;
  const std::int64_t vectors = aligned ? ceil_div(n, N) : n;
  gpu::launch(cuda, kernel, blocks_for(cuda, ceil_div(vectors, usual_threads)), dim3(usual_threads), 0, f, n);
}

}  // namespace limbeck::kernels
