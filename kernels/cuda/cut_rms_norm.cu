#include "kernels/cut_rms_norm.h"

#include <cmath>

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct Squares {
  const T* x;
  Acc<T>* squares;
  std::int64_t width;
  __device__ void run(std::int64_t t, int lane) const {
    Acc<T> sum = 0;
    for (std::int64_t c = lane; c < width; c += warp_size) {
      const auto value = as<Acc<T>>(x[t * width + c]);
      sum += value * value;
    }
    sum = warp_sum(sum);
    if (lane == 0) squares[t] = sum;
  }
};

template <class T>
struct Dots {
  const T* x;
  const Acc<T>* weight;
  const T* dy;
  Acc<T>* dots;
  std::int64_t width;
  __device__ void run(std::int64_t t, int lane) const {
    Acc<T> sum = 0;
    for (std::int64_t c = lane; c < width; c += warp_size)
      sum += weight[c] * as<Acc<T>>(dy[t * width + c]) * as<Acc<T>>(x[t * width + c]);
    sum = warp_sum(sum);
    if (lane == 0) dots[t] = sum;
  }
};

template <class T>
struct Normalise {
  const T* x;
  const Acc<T>* weight;
  const Acc<T>* squares;
  T* y;
  Acc<T>* inverse_rms;
  std::int64_t width, total;
  Acc<T> eps;
  __device__ void run(std::int64_t t, int lane) const {
    const Acc<T> r = 1 / std::sqrt(squares[t] / static_cast<Acc<T>>(total) + eps);
    if (lane == 0) inverse_rms[t] = r;
    for (std::int64_t c = lane; c < width; c += warp_size)
      y[t * width + c] = as<T>(as<Acc<T>>(x[t * width + c]) * r * weight[c]);
  }
};

template <class T>
struct CutInputGradient {
  const T* x;
  const Acc<T>* weight;
  const Acc<T>* inverse_rms;
  const Acc<T>* dots;
  const T* dy;
  bool add;
  T* dx;
  std::int64_t width, total;
  __device__ void run(std::int64_t t, int lane) const {
    using A = Acc<T>;
    const A r = inverse_rms[t], along = dots[t] * r * r * r / static_cast<A>(total);
    for (std::int64_t c = lane; c < width; c += warp_size) {
      const std::int64_t i = t * width + c;
      const A d = std::fma(r * weight[c], as<A>(dy[i]), -(along * as<A>(x[i])));
      dx[i] = as<T>(add ? as<A>(dx[i]) + d : d);
    }
  }
};

}  // namespace

template <class D, class T>
void row_squares(const D& cuda, const T* x, Acc<T>* squares, std::int64_t rows, std::int64_t width) {
  for_each_row(cuda, rows, Squares<T>{x, squares, width});
}

template <class D, class T>
void cut_rms_norm(const D& cuda, const T* x, const Acc<T>* weight, const Acc<T>* squares, T* y, Acc<T>* inverse_rms,
                  std::int64_t rows, std::int64_t width, std::int64_t total, double eps) {
  for_each_row(cuda, rows, Normalise<T>{x, weight, squares, y, inverse_rms, width, total, static_cast<Acc<T>>(eps)});
}

template <class D, class T>
void row_dots(const D& cuda, const T* x, const Acc<T>* weight, const T* dy, Acc<T>* dots, std::int64_t rows,
              std::int64_t width) {
  for_each_row(cuda, rows, Dots<T>{x, weight, dy, dots, width});
}

template <class D, class T>
void cut_rms_norm_input_gradient(const D& cuda, const T* x, const Acc<T>* weight, const Acc<T>* inverse_rms,
                                 const Acc<T>* dots, const T* dy, bool add, T* dx, std::int64_t rows,
                                 std::int64_t width, std::int64_t total) {
  for_each_row(cuda, rows, CutInputGradient<T>{x, weight, inverse_rms, dots, dy, add, dx, width, total});
}

#define LIMBECK_INSTANTIATE(T)                                                                                  \
  template void row_squares(const Cuda&, const T*, Acc<T>*, std::int64_t, std::int64_t);                        \
  template void cut_rms_norm(const Cuda&, const T*, const Acc<T>*, const Acc<T>*, T*, Acc<T>*, std::int64_t,    \
                             std::int64_t, std::int64_t, double);                                               \
  template void row_dots(const Cuda&, const T*, const Acc<T>*, const T*, Acc<T>*, std::int64_t, std::int64_t);  \
  template void cut_rms_norm_input_gradient(const Cuda&, const T*, const Acc<T>*, const Acc<T>*, const Acc<T>*, \
                                            const T*, bool, T*, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
