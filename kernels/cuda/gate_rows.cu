#include "kernels/gate_rows.h"

#include <cmath>

#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class A>
__device__ A logistic(A x) {
  return 1 / (1 + std::exp(-x));
}

template <class T>
struct GateRows {
  const T* gate;
  const T* x;
  T* y;
  std::int64_t width;
  __device__ void run(std::int64_t row, int lane) const {
    const auto s = logistic(as<Acc<T>>(gate[row]));
    for (std::int64_t c = lane; c < width; c += warp_size)
      y[row * width + c] = rounded<T>(s * as<Acc<T>>(x[row * width + c]));
  }
};

template <class T>
struct GateRowsGradient {
  const T* gate;
  const T* x;
  const T* dy;
  T* dgate;
  T* dx;
  std::int64_t width;
  __device__ void run(std::int64_t row, int lane) const {
    const auto s = logistic(as<Acc<T>>(gate[row]));
    Acc<T> sum = 0;
    for (std::int64_t c = lane; c < width; c += warp_size) {
      const auto d = as<Acc<T>>(dy[row * width + c]);
      sum += d * as<Acc<T>>(x[row * width + c]);
      dx[row * width + c] = rounded<T>(s * d);
    }
    sum = warp_sum(sum);
    if (lane == 0) dgate[row] = rounded<T>(s * (1 - s) * sum);
  }
};

}  // namespace

template <class D, class T>
void gate_rows(const D& cuda, const T* gate, const T* x, T* y, std::int64_t rows, std::int64_t width) {
  for_each_row(cuda, rows, GateRows<T>{gate, x, y, width});
}

template <class D, class T>
void gate_rows_gradient(const D& cuda, const T* gate, const T* x, const T* dy, T* dgate, T* dx, std::int64_t rows,
                        std::int64_t width) {
  for_each_row(cuda, rows, GateRowsGradient<T>{gate, x, dy, dgate, dx, width});
}

#define LIMBECK_INSTANTIATE(T)                                                              \
  template void gate_rows(const Cuda&, const T*, const T*, T*, std::int64_t, std::int64_t); \
  template void gate_rows_gradient(const Cuda&, const T*, const T*, const T*, T*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
