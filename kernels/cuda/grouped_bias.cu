#include "kernels/grouped_bias.h"

#include "kernels/cuda/grid.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

/// A block to a row, whose group it finds by halving.
template <class T>
__global__ void grouped_bias_kernel(const T* x, const Acc<T>* bias, T* y, GroupedRows s) {
  for (std::int64_t r = blockIdx.x; r < s.rows; r += gridDim.x) {
    std::int64_t e = 0;
    for (std::int64_t end = s.groups; end - e > 1;) {
      const std::int64_t middle = (e + end) / 2;
      if (s.offsets[middle] <= r)
        e = middle;
      else
        end = middle;
    }
    const bool is_grouped = r >= s.offsets[0] && r < s.offsets[s.groups];
    for (std::int64_t c = threadIdx.x; c < s.width; c += blockDim.x) {
      const std::int64_t own = c - s.first;
      const bool has_bias = is_grouped && own >= 0 && own < s.columns;
      const auto value = as<Acc<T>>(x[r * s.width + c]);
      y[r * s.width + c] = rounded<T>(has_bias ? value + bias[e * s.columns + own] : value);
    }
  }
}

constexpr unsigned warps = 16;

/// A warp's lanes have neighbouring columns, the block's warps the rows of the group by turns.
template <class T>
__global__ void grouped_sums_kernel(const T* x, bool add, Acc<T>* sums, GroupedRows s) {
  __shared__ Acc<T> of_warp[warps][warp_size];
  for (std::int64_t e = blockIdx.y; e < s.groups; e += gridDim.y) {
    const std::int64_t c = std::int64_t{blockIdx.x} * warp_size + threadIdx.x, end = s.offsets[e + 1];
    Acc<T> sum = 0;
    if (c < s.columns)
      for (std::int64_t r = s.offsets[e] + threadIdx.y; r < end; r += warps)
        sum += as<Acc<T>>(x[r * s.width + s.first + c]);
    of_warp[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < s.columns) {
      for (unsigned w = 1; w < warps; ++w) sum += of_warp[w][threadIdx.x];
      Acc<T>& total = sums[e * s.columns + c];
      total = add ? total + sum : sum;
    }
    __syncthreads();
  }
}

}  // namespace

template <class D, class T>
void add_grouped_bias(const D& cuda, const T* x, const Acc<T>* bias, T* y, const GroupedRows& shape) {
  if (shape.rows == 0 || shape.width == 0) return;
  gpu::launch(cuda, grouped_bias_kernel<T>, blocks_for(cuda, shape.rows), threads_for_row(shape.width), 0, x, bias, y,
              shape);
}

template <class D, class T>
void grouped_column_sums(const D& cuda, const T* x, bool add, Acc<T>* sums, const GroupedRows& shape) {
  if (shape.groups == 0 || shape.columns == 0) return;
  constexpr std::int64_t most = 65535;
  const dim3 grid(static_cast<unsigned>(ceil_div(shape.columns, warp_size)),
                  static_cast<unsigned>(std::min(shape.groups, most)));
  gpu::launch(cuda, grouped_sums_kernel<T>, grid, dim3(warp_size, warps), 0, x, add, sums, shape);
}

#define LIMBECK_INSTANTIATE(T)                                                                  \
  template void add_grouped_bias(const Cuda&, const T*, const Acc<T>*, T*, const GroupedRows&); \
  template void grouped_column_sums(const Cuda&, const T*, bool, Acc<T>*, const GroupedRows&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
