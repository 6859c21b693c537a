#include "kernels/permute.h"

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/stable_sort.cuh"

namespace limbeck::kernels {
namespace {

struct ByExpert {
  const std::int32_t* selection;
  std::int32_t* row_of;
  std::int32_t* source;
  __device__ int bin(std::int64_t a) const { return selection[a] < 0 ? -1 : selection[a]; }
  __device__ void place(std::int64_t a, std::int32_t row) const {
    row_of[a] = row;
    if (row >= 0) source[row] = static_cast<std::int32_t>(a);
  }
};

struct Counts {
  const std::int32_t* starts;
  std::int64_t tiles;
  std::int64_t* counts;
  template <int N>
  __device__ void run(std::int64_t e) const {
    counts[e] = starts[(e + 1) * tiles] - starts[e * tiles];
  }
};

struct Renumber {
  const std::int32_t* x;
  const std::int32_t* number;
  std::int32_t* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    y[i] = x[i] < 0 ? -1 : number[x[i]];
  }
};

// Each block takes rows in turn; a thread has the same columns of each.

template <class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads)
    permute_kernel(const T* x, const std::int32_t* source, T* y, std::int64_t rows, int selected, int width) {
  constexpr int N = vector_length<T>;
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const bool is_somebodys = source[r] >= 0;
    const T* from = x + std::int64_t{source[r] / selected} * width;
    for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N)
      if (is_somebodys)
        copy<N, Whole>(from + c, y + r * width + c, width - c);
      else
        store<Whole>(y + r * width + c, Values<Acc<T>, N>{}, width - c);
  }
}

template <class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads)
    unpermute_kernel(const T* rows, const std::int32_t* row_of, const Acc<T>* weights, T* y, std::int64_t tokens,
                     int selected, int width) {
  constexpr int N = vector_length<T>;
  for (std::int64_t t = blockIdx.x; t < tokens; t += gridDim.x)
    for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N) {
      Values<Acc<T>, N> sum{};
      for (int k = 0; k < selected; ++k) {
        const std::int64_t a = t * selected + k, row = row_of[a];
        // Zeros for a dropped one: without a branch, the rows of several k are under way at once.
        const Acc<T> w = row < 0 ? Acc<T>{0} : weights != nullptr ? weights[a] : Acc<T>{1};
        const auto v = row < 0 ? Values<Acc<T>, N>{} : load<N, Whole>(rows + row * width + c, width - c);
        for (int j = 0; j < N; ++j) sum[j] += w * v[j];
      }
      store<Whole>(y + t * width + c, sum, width - c);
    }
}

template <class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads)
    unpermute_gradient_kernel(const T* rows, const std::int32_t* source, const Acc<T>* weights, const T* dy, T* drows,
                              Acc<T>* dweights, std::int64_t num_rows, int selected, int width) {
  constexpr int N = vector_length<T>;
  for (std::int64_t r = blockIdx.x; r < num_rows; r += gridDim.x) {
    const std::int32_t a = source[r];
    if (a < 0) {
      if (drows == nullptr) continue;
      for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N)
        store<Whole>(drows + r * width + c, Values<Acc<T>, N>{}, width - c);
      continue;
    }
    const T* from = dy + std::int64_t{a / selected} * width;
    const Acc<T> w = drows != nullptr ? weights[a] : Acc<T>{0};
    Acc<T> dot = 0;
    for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N) {
      auto d = load<N, Whole>(from + c, width - c);
      if (dweights != nullptr) {
        const auto v = load<N, Whole>(rows + r * width + c, width - c);
        for (int j = 0; j < N; ++j) dot += v[j] * d[j];
      }
      if (drows == nullptr) continue;
      for (int j = 0; j < N; ++j) d[j] *= w;
      store<Whole>(drows + r * width + c, d, width - c);
    }
    if (dweights == nullptr) continue;
    dot = block_sum(dot);
    if (threadIdx.x == 0) dweights[a] = dot;
  }
}

}  // namespace

template <class D>
void sort_by_expert(const D& cuda, const std::int32_t* selection, std::int64_t tokens, std::int64_t selected,
                    std::int64_t experts, std::int64_t* counts, std::int32_t* row_of, std::int32_t* source) {
  const std::int64_t n = tokens * selected;
  check_cuda(cudaMemsetAsync(source, 0xff, static_cast<std::size_t>(n) * sizeof(std::int32_t), cuda.state->stream));
  Scratch scratch(cuda);
  const std::int32_t* starts = stable_sort(cuda, scratch, n, experts, ByExpert{selection, row_of, source});
  for_each_vector<1>(cuda, experts, Counts{starts, sort_tiles(n), counts}, counts);
}

template <class D>
void renumber(const D& cuda, const std::int32_t* x, const std::int32_t* number, std::int32_t* y, std::int64_t n) {
  for_each_vector<1>(cuda, n, Renumber{x, number, y}, y);
}

template <class D>
void offsets_of_counts(const D& cuda, const std::int64_t* counts, std::int64_t n, std::int64_t* offsets) {
  exclusive_sums(cuda, counts, n, offsets);
}

template <class D, class T>
void permute_rows(const D& cuda, const T* x, const std::int32_t* source, T* y, std::int64_t rows, std::int64_t selected,
                  std::int64_t width) {
  constexpr int N = vector_length<T>;
  if (rows == 0 || width == 0) return;
  const bool whole = are_rows_aligned<N>(width, x, y);
  gpu::launch(cuda, whole ? permute_kernel<T, true> : permute_kernel<T, false>, blocks_for(cuda, rows),
              threads_for_row(ceil_div(width, N)), 0, x, source, y, rows, static_cast<int>(selected),
              static_cast<int>(width));
}

template <class D, class T>
void unpermute_rows(const D& cuda, const T* rows, const std::int32_t* row_of, const Acc<T>* weights, T* y,
                    std::int64_t tokens, std::int64_t selected, std::int64_t width) {
  constexpr int N = vector_length<T>;
  if (tokens == 0 || width == 0) return;
  const bool whole = are_rows_aligned<N>(width, rows, y);
  gpu::launch(cuda, whole ? unpermute_kernel<T, true> : unpermute_kernel<T, false>, blocks_for(cuda, tokens),
              threads_for_row(ceil_div(width, N)), 0, rows, row_of, weights, y, tokens, static_cast<int>(selected),
              static_cast<int>(width));
}

template <class D, class T>
void unpermute_gradient(const D& cuda, const T* rows, const std::int32_t* source, const Acc<T>* weights, const T* dy,
                        T* drows, Acc<T>* dweights, std::int64_t num_rows, std::int64_t tokens, std::int64_t selected,
                        std::int64_t width) {
  constexpr int N = vector_length<T>;
  if (dweights != nullptr)
    check_cuda(
        cudaMemsetAsync(dweights, 0, static_cast<std::size_t>(tokens * selected) * sizeof(Acc<T>), cuda.state->stream));
  if (num_rows == 0) return;
  const bool whole = are_rows_aligned<N>(width, rows, dy, drows);
  gpu::launch(cuda, whole ? unpermute_gradient_kernel<T, true> : unpermute_gradient_kernel<T, false>,
              blocks_for(cuda, num_rows), threads_for_row(ceil_div(width, N)), 0, rows, source, weights, dy, drows,
              dweights, num_rows, static_cast<int>(selected), static_cast<int>(width));
}

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void permute_rows(const Cuda&, const T*, const std::int32_t*, T*, std::int64_t, std::int64_t,             \
                             std::int64_t);                                                                          \
  template void unpermute_rows(const Cuda&, const T*, const std::int32_t*, const Acc<T>*, T*, std::int64_t,          \
                               std::int64_t, std::int64_t);                                                          \
  template void unpermute_gradient(const Cuda&, const T*, const std::int32_t*, const Acc<T>*, const T*, T*, Acc<T>*, \
                                   std::int64_t, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)
template void renumber(const Cuda&, const std::int32_t*, const std::int32_t*, std::int32_t*, std::int64_t);
template void offsets_of_counts(const Cuda&, const std::int64_t*, std::int64_t, std::int64_t*);
template void sort_by_expert(const Cuda&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t, std::int64_t*,
                             std::int32_t*, std::int32_t*);

}  // namespace limbeck::kernels
