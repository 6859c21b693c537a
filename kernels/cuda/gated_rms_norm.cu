#include "kernels/gated_rms_norm.h"

#include <cmath>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/reduce.cuh"

namespace limbeck::kernels {
namespace {

using Gate = GatedBy<SiluActivation>;

/// Rows of a group: a block has one at a time.
template <class T>
struct GatedRows {
  const T *y, *z;
  const Acc<T>* weight;
  std::int64_t groups;
  int width;

  __device__ Acc<T> gated(std::int64_t at) const { return Gate().value(as<Acc<T>>(z[at]), as<Acc<T>>(y[at])); }
};

template <class T>
__global__ void __launch_bounds__(usual_threads)
    gated_norm_kernel(const GatedRows<T> of, T* u, Acc<T>* inverse_rms, std::int64_t rows, Acc<T> eps) {
  using A = Acc<T>;
  for (std::int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    A squares = 0;
    for (int c = static_cast<int>(threadIdx.x); c < of.width; c += static_cast<int>(blockDim.x)) {
      const A g = of.gated(i * of.width + c);
      squares += g * g;
    }
    const A r = 1 / std::sqrt(block_sum(squares) / static_cast<A>(of.width) + eps);
    if (threadIdx.x == 0) inverse_rms[i] = r;
    const A* const weight = of.weight + i % of.groups * of.width;
    for (int c = static_cast<int>(threadIdx.x); c < of.width; c += static_cast<int>(blockDim.x))
      u[i * of.width + c] = rounded<T>(of.gated(i * of.width + c) * r * weight[c]);
  }
}

template <class T>
__global__ void __launch_bounds__(usual_threads)
    gated_norm_gradient_kernel(const GatedRows<T> of, const Acc<T>* inverse_rms, const T* du, T* dy, T* dz,
                               std::int64_t rows) {
  using A = Acc<T>;
  for (std::int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    const A* const weight = of.weight + i % of.groups * of.width;
    A dot = 0;
    for (int c = static_cast<int>(threadIdx.x); c < of.width; c += static_cast<int>(blockDim.x))
      dot += weight[c] * as<A>(du[i * of.width + c]) * of.gated(i * of.width + c);
    const A r = inverse_rms[i], along = block_sum(dot) * r * r * r / static_cast<A>(of.width);
    for (int c = static_cast<int>(threadIdx.x); c < of.width; c += static_cast<int>(blockDim.x)) {
      const std::int64_t at = i * of.width + c;
      const A dg = r * weight[c] * as<A>(du[at]) - along * of.gated(at);
      const auto d = Gate().gradient(as<A>(of.z[at]), as<A>(of.y[at]), dg);
      dy[at] = rounded<T>(d.of_u);
      dz[at] = rounded<T>(d.of_x);
    }
  }
}

/// The terms of the weight's gradient.
template <class T>
struct GatedTerms {
  const T *y, *z, *du;
  const Acc<T>* inverse_rms;
  std::int64_t groups, width;
  template <int N, bool Whole>
  __device__ void add(std::int64_t t, std::int64_t c, int count, Values<Acc<T>, N>& sum) const {
    const std::int64_t at = t * groups * width + c;
    const auto vy = load<N, Whole>(y + at, count), vz = load<N, Whole>(z + at, count);
    const auto d = load<N, Whole>(du + at, count);
    for (int j = 0; j < N; ++j)
      if (Whole || j < count) sum[j] += d[j] * Gate().value(vz[j], vy[j]) * inverse_rms[t * groups + (c + j) / width];
  }
};

}  // namespace

template <class D, class T>
void gated_rms_norm(const D& cuda, const T* y, const T* z, const Acc<T>* weight, T* u, Acc<T>* inverse_rms,
                    std::int64_t rows, std::int64_t groups, std::int64_t width, double eps) {
  if (rows == 0) return;
  gpu::launch(cuda, gated_norm_kernel<T>, blocks_for(cuda, rows * groups), threads_for_row(width, usual_threads), 0,
              GatedRows<T>{y, z, weight, groups, static_cast<int>(width)}, u, inverse_rms, rows * groups,
              static_cast<Acc<T>>(eps));
}

template <class D, class T>
void gated_rms_norm_input_gradient(const D& cuda, const T* y, const T* z, const Acc<T>* weight,
                                   const Acc<T>* inverse_rms, const T* du, T* dy, T* dz, std::int64_t rows,
                                   std::int64_t groups, std::int64_t width) {
  if (rows == 0) return;
  gpu::launch(cuda, gated_norm_gradient_kernel<T>, blocks_for(cuda, rows * groups),
              threads_for_row(width, usual_threads), 0, GatedRows<T>{y, z, weight, groups, static_cast<int>(width)},
              inverse_rms, du, dy, dz, rows * groups);
}

template <class D, class T>
void gated_rms_norm_weight_gradient(const D& cuda, const T* y, const T* z, const Acc<T>* inverse_rms, const T* du,
                                    bool add, Acc<T>* dweight, std::int64_t rows, std::int64_t groups,
                                    std::int64_t width) {
  sum_columns<vector_length<T, Acc<T>>>(cuda, rows, groups * width, add,
                                        GatedTerms<T>{y, z, du, inverse_rms, groups, width}, dweight, y, z, du);
}

#define LIMBECK_INSTANTIATE(T)                                                                                         \
  template void gated_rms_norm(const Cuda&, const T*, const T*, const Acc<T>*, T*, Acc<T>*, std::int64_t,              \
                               std::int64_t, std::int64_t, double);                                                    \
  template void gated_rms_norm_input_gradient(const Cuda&, const T*, const T*, const Acc<T>*, const Acc<T>*, const T*, \
                                              T*, T*, std::int64_t, std::int64_t, std::int64_t);                       \
  template void gated_rms_norm_weight_gradient(const Cuda&, const T*, const T*, const Acc<T>*, const T*, bool,         \
                                               Acc<T>*, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
