#include "kernels/match_rows.h"

#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/warp_rows.cuh"
#include "kernels/match_row.h"

namespace limbeck::kernels {
namespace {

/// Of a row, by the lanes of a warp; all get it.
template <class T>
__device__ RowSums<double> row_sums(const T* x, const Acc<T>* y, std::int64_t width, int lane) {
  RowSums<double> s;
  for (std::int64_t c = lane; c < width; c += warp_size) {
    const auto a = static_cast<double>(as<Acc<T>>(x[c])), b = static_cast<double>(y[c]);
    s.xy += a * b;
    s.xx += a * a;
    s.yy += b * b;
    s.apart += (a - b) * (a - b);
  }
  return {warp_sum(s.xy), warp_sum(s.xx), warp_sum(s.yy), warp_sum(s.apart)};
}

template <class T>
struct Distance {
  RowDistance kind;
  const T* x;
  const Acc<T>* y;
  const std::int32_t* targets;
  TokenWeight weight;
  double* distance;
  double* squares;
  std::int64_t width;
  __device__ void run(std::int64_t t, int lane) const {
    double of_row = 0, square = 0;
    if (targets[t] >= 0) {
      const RowSums<double> sums = row_sums(x + t * width, y + t * width, width, lane);
      of_row = weight.get() * distance_of(kind, sums, static_cast<double>(width));
      square = gradient_square(kind, sums, weight.get(), static_cast<double>(width));
    }
    if (lane > 0) return;
    distance[t] = of_row;
    squares[t] = square;
  }
};

template <class T>
struct DistanceGradient {
  RowDistance kind;
  const T* x;
  const Acc<T>* y;
  const std::int32_t* targets;
  TokenWeight weight;
  const Acc<T>* dloss;
  T* dx;
  std::int64_t width;
  __device__ void run(std::int64_t t, int lane) const {
    RowFactors<double> factors;
    if (targets[t] >= 0)
      factors = RowFactors(kind, row_sums(x + t * width, y + t * width, width, lane),
                           weight.get() * static_cast<double>(*dloss), static_cast<double>(width));
    for (std::int64_t c = lane; c < width; c += warp_size) {
      const std::int64_t i = t * width + c;
      dx[i] = rounded<T>(static_cast<Acc<T>>(factors.for_x * static_cast<double>(as<Acc<T>>(x[i])) +
                                             factors.for_y * static_cast<double>(y[i])));
    }
  }
};

}  // namespace

template <class D, class T>
void row_distance(const D& cuda, RowDistance kind, const T* x, const Acc<T>* y, const std::int32_t* targets,
                  TokenWeight weight, double* distance, double* squares, std::int64_t rows, std::int64_t width) {
  for_each_row(cuda, rows, Distance<T>{kind, x, y, targets, weight, distance, squares, width});
}

template <class D, class T>
void row_distance_gradient(const D& cuda, RowDistance kind, const T* x, const Acc<T>* y, const std::int32_t* targets,
                           TokenWeight weight, const Acc<T>* dloss, T* dx, std::int64_t rows, std::int64_t width) {
  for_each_row(cuda, rows, DistanceGradient<T>{kind, x, y, targets, weight, dloss, dx, width});
}

#define LIMBECK_INSTANTIATE(T)                                                                                    \
  template void row_distance(const Cuda&, RowDistance, const T*, const Acc<T>*, const std::int32_t*, TokenWeight, \
                             double*, double*, std::int64_t, std::int64_t);                                       \
  template void row_distance_gradient(const Cuda&, RowDistance, const T*, const Acc<T>*, const std::int32_t*,     \
                                      TokenWeight, const Acc<T>*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
