#include "kernels/rms_norm.h"

#include "kernels/cuda/rms_norm_row.cuh"
#include "kernels/cuda/scratch.h"

namespace limbeck::kernels {
namespace {

/// parts [., columns]: the sums over some rows each, in the order of the rows. A thread has N columns.
template <class X, class Y, bool Whole>
__global__ void weight_gradient_kernel(const X* x, const Acc<X>* inverse_rms, const Y* dy, Acc<X>* parts,
                                       std::int64_t rows, std::int64_t rows_a_part, std::int64_t width, int columns) {
  constexpr int N = vector_length<X, Y>;
  const int c = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (c >= columns) return;
  for (std::int64_t p = blockIdx.y; p * rows_a_part < rows; p += gridDim.y) {
    const std::int64_t end = rows < (p + 1) * rows_a_part ? rows : (p + 1) * rows_a_part;
    Values<Acc<X>, N> sum{};
    for (std::int64_t t = p * rows_a_part; t < end; ++t) {
      const auto v = load<N, Whole>(x + t * width + c, columns - c);
      const auto d = load<N, Whole>(dy + t * width + c, columns - c);
      const Acc<X> r = inverse_rms[t];
      for (int j = 0; j < N; ++j) sum[j] += d[j] * v[j] * r;
    }
    store<Whole>(parts + p * columns + c, sum, columns - c);
  }
}

}  // namespace

template <class D, class X, class Y>
void rms_norm(const D& cuda, const X* x, const Acc<X>* weight, Y* y, Acc<X>* inverse_rms, std::int64_t rows,
              std::int64_t width, double eps) {
  launch_rms_norm(cuda, x, static_cast<const Y*>(nullptr), weight, const_cast<X*>(x), y, inverse_rms, rows, width, eps);
}

template <class D, class X, class Y>
void rms_norm_input_gradient(const D& cuda, const X* x, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                             bool add, X* dx, std::int64_t rows, std::int64_t width) {
  rms_norm_gradient<X, Y>(cuda, {.x = x,
                                 .weight = weight,
                                 .inverse_rms = inverse_rms,
                                 .dy = dy,
                                 .add = add,
                                 .dx = dx,
                                 .rows = rows,
                                 .rows_a_part = 1,
                                 .width = static_cast<int>(width)});
}

template <class D, class X, class Y>
void rms_norm_weight_gradient(const D& cuda, const X* x, const Acc<X>* inverse_rms, const Y* dy, bool add,
                              Acc<X>* dweight, std::int64_t rows, std::int64_t width) {
  constexpr int N = vector_length<X, Y>;
  const std::int64_t num_parts = rms_norm_parts(rows);
  // As many columns at a time as there is scratch memory for.
  constexpr std::int64_t strip = std::int64_t{CudaState::workspace_bytes / sizeof(Acc<X>)} / 1024;
  Acc<X>* parts = Scratch(cuda).take<Acc<X>>(num_parts * std::min(strip, width));
  for (std::int64_t first = 0; first < width; first += strip) {
    const std::int64_t columns = std::min(strip, width - first);
    if (rows > 0) {
      const bool whole = are_rows_aligned<N>(width, x, dy) && columns % N == 0;
      const std::int64_t warps = std::min<std::int64_t>(ceil_div(columns, N * warp_size), usual_threads / warp_size);
      const dim3 block(static_cast<unsigned>(warps) * warp_size);
      const dim3 grid(static_cast<unsigned>(ceil_div(columns, N * block.x)), static_cast<unsigned>(num_parts));
      gpu::launch(cuda, whole ? weight_gradient_kernel<X, Y, true> : weight_gradient_kernel<X, Y, false>, grid, block,
                  0, x + first, inverse_rms, dy + first, parts, rows, rms_norm_rows_a_part(rows), width,
                  static_cast<int>(columns));
    }
    sum_parts(cuda, parts, num_parts, columns, add, dweight + first, columns);
  }
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                     \
  template void rms_norm(const Cuda&, const X*, const Acc<X>*, Y*, Acc<X>*, std::int64_t, std::int64_t, double);      \
  template void rms_norm_input_gradient(const Cuda&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool, X*,      \
                                        std::int64_t, std::int64_t);                                                  \
  template void rms_norm_weight_gradient(const Cuda&, const X*, const Acc<X>*, const Y*, bool, Acc<X>*, std::int64_t, \
                                         std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

}  // namespace limbeck::kernels
