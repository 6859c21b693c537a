#include "kernels/softmax.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct Softmax {
  const T* x;
  T* y;
  int width;
  __device__ void run(std::int64_t t, int lane) const {
    const T* from = x + t * width;
    T* to = y + t * width;
    T largest = -std::numeric_limits<T>::infinity();
    for (int e = lane; e < width; e += warp_size) largest = Larger{}(largest, from[e]);
    largest = warp_reduce(largest, Larger{});
    T sum = 0;
    for (int e = lane; e < width; e += warp_size) sum += std::exp(from[e] - largest);
    sum = warp_sum(sum);
    for (int e = lane; e < width; e += warp_size) to[e] = std::exp(from[e] - largest) / sum;
  }
};

template <class T>
struct SoftmaxGradient {
  const T* y;
  const T* dy;
  T* dx;
  int width;
  __device__ void run(std::int64_t t, int lane) const {
    const T* p = y + t * width;
    const T* dp = dy + t * width;
    T* d = dx + t * width;
    T dot = 0;
    for (int j = lane; j < width; j += warp_size) dot += dp[j] * p[j];
    dot = warp_sum(dot);
    for (int j = lane; j < width; j += warp_size) d[j] = p[j] * (dp[j] - dot);
  }
};

}  // namespace

template <class D, class T>
void softmax(const D& cuda, const T* x, T* y, std::int64_t rows, std::int64_t width) {
  if (width > 0) for_each_row(cuda, rows, Softmax<T>{x, y, static_cast<int>(width)});
}

template <class D, class T>
void softmax_gradient(const D& cuda, const T* y, const T* dy, T* dx, std::int64_t rows, std::int64_t width) {
  for_each_row(cuda, rows, SoftmaxGradient<T>{y, dy, dx, static_cast<int>(width)});
}

template void softmax(const Cuda&, const float*, float*, std::int64_t, std::int64_t);
template void softmax(const Cuda&, const double*, double*, std::int64_t, std::int64_t);
template void softmax_gradient(const Cuda&, const float*, const float*, float*, std::int64_t, std::int64_t);
template void softmax_gradient(const Cuda&, const double*, const double*, double*, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
