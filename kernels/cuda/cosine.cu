#include "kernels/cosine.h"

#include <cmath>

#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class T, bool Whole>
struct Distance {
  const T* x;
  const T* y;
  double* distance;
  int width;
  __device__ void run(std::int64_t t, int lane) const {
    constexpr int N = vector_length<T>;
    double xy = 0, xx = 0, yy = 0;
    for (int c = lane * N; c < width; c += static_cast<int>(warp_size) * N) {
      const auto v = load<N, Whole>(x + t * width + c, width - c), w = load<N, Whole>(y + t * width + c, width - c);
      for (int j = 0; j < N; ++j) {
        const auto a = static_cast<double>(v[j]), b = static_cast<double>(w[j]);
        xy += a * b;
        xx += a * a;
        yy += b * b;
      }
    }
    xy = warp_sum(xy);
    xx = warp_sum(xx);
    yy = warp_sum(yy);
    if (lane == 0) distance[t] = xx > 0 && yy > 0 ? 1 - xy / (std::sqrt(xx) * std::sqrt(yy)) : 1;
  }
};

}  // namespace

template <class D, class T>
void cosine_distance(const D& cuda, const T* x, const T* y, double* distance, std::int64_t rows, std::int64_t width) {
  if (are_rows_aligned<vector_length<T>>(width, x, y))
    for_each_row(cuda, rows, Distance<T, true>{x, y, distance, static_cast<int>(width)});
  else
    for_each_row(cuda, rows, Distance<T, false>{x, y, distance, static_cast<int>(width)});
}

template void cosine_distance(const Cuda&, const float*, const float*, double*, std::int64_t, std::int64_t);
template void cosine_distance(const Cuda&, const double*, const double*, double*, std::int64_t, std::int64_t);
template void cosine_distance(const Cuda&, const bf16*, const bf16*, double*, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
