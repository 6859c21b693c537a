#include "kernels/bias.h"

#include "kernels/cuda/column_sums.cuh"

namespace limbeck::kernels {
namespace {

/// A block to a row.
template <class T, bool Whole>
__global__ void bias_kernel(const T* x, const Acc<T>* bias, T* y, std::int64_t rows, int width) {
  constexpr int N = vector_length<Acc<T>>;
  for (std::int64_t t = blockIdx.x; t < rows; t += gridDim.x)
    for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N) {
      auto v = load<N, Whole>(x + t * width + c, width - c);
      const auto b = load<N, Whole>(bias + c, width - c);
      for (int j = 0; j < N; ++j) v[j] += b[j];
      store<Whole>(y + t * width + c, v, width - c);
    }
}

template <class T>
struct Rows {
  const T* x;
  std::int64_t width;
  template <int N, bool Whole>
  __device__ void add(std::int64_t t, std::int64_t c, int count, Values<Acc<T>, N>& sum) const {
    const auto v = load<N, Whole>(x + t * width + c, count);
    for (int j = 0; j < N; ++j) sum[j] += v[j];
  }
};

}  // namespace

template <class D, class T>
void add_bias(const D& cuda, const T* x, const Acc<T>* bias, T* y, std::int64_t rows, std::int64_t width) {
  constexpr int N = vector_length<Acc<T>>;
  if (rows == 0 || width == 0) return;
  const bool whole = are_rows_aligned<N>(width, x, bias, y);
  gpu::launch(cuda, whole ? bias_kernel<T, true> : bias_kernel<T, false>, blocks_for(cuda, rows),
              threads_for_row(ceil_div(width, N)), 0, x, bias, y, rows, static_cast<int>(width));
}

template <class D, class T>
void column_sums(const D& cuda, const T* x, bool add, Acc<T>* sums, std::int64_t rows, std::int64_t width) {
  sum_columns<vector_length<T>>(cuda, rows, width, add, Rows<T>{x, width}, sums, x);
}

#define LIMBECK_INSTANTIATE(T)                                                                  \
  template void add_bias(const Cuda&, const T*, const Acc<T>*, T*, std::int64_t, std::int64_t); \
  template void column_sums(const Cuda&, const T*, bool, Acc<T>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
