#include "kernels/match_rows.h"

#include "kernels/cpu/parallel_for.h"
#include "kernels/match_row.h"

namespace limbeck::kernels {
namespace {

template <class T>
RowSums<double> row_sums(const T* x, const Acc<T>* y, std::int64_t width) {
  double xy = 0, xx = 0, yy = 0, apart = 0;
#pragma omp simd reduction(+ : xy, xx, yy, apart)
  for (std::int64_t c = 0; c < width; ++c) {
    const auto a = as<double>(x[c]), b = as<double>(y[c]);
    xy += a * b;
    xx += a * a;
    yy += b * b;
    apart += (a - b) * (a - b);
  }
  return {xy, xx, yy, apart};
}

std::int64_t least_rows(std::int64_t width) { return 1 + (1 << 13) / (width + 1); }

}  // namespace

template <class D, class T>
void row_distance(const D& cpu, RowDistance kind, const T* x, const Acc<T>* y, const std::int32_t* targets,
                  TokenWeight token_weight, double* distance, double* squares, std::int64_t rows, std::int64_t width) {
  const double weight = token_weight.get();
  parallel_for(cpu, rows, least_rows(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      distance[t] = squares[t] = 0;
      if (targets[t] < 0) continue;
      const RowSums<double> sums = row_sums(x + t * width, y + t * width, width);
      distance[t] = weight * distance_of(kind, sums, static_cast<double>(width));
      squares[t] = gradient_square(kind, sums, weight, static_cast<double>(width));
    }
  });
}

template <class D, class T>
void row_distance_gradient(const D& cpu, RowDistance kind, const T* x, const Acc<T>* y, const std::int32_t* targets,
                           TokenWeight weight, const Acc<T>* dloss, T* dx, std::int64_t rows, std::int64_t width) {
  const double factor = weight.get() * static_cast<double>(*dloss);
  parallel_for(cpu, rows, least_rows(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* of_x = x + t * width;
      const Acc<T>* of_y = y + t * width;
      T* out = dx + t * width;
      const auto [for_x, for_y] =
          targets[t] >= 0 ? RowFactors(kind, row_sums(of_x, of_y, width), factor, static_cast<double>(width))
                          : RowFactors<double>();
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c)
        out[c] = as<T>(static_cast<Acc<T>>(for_x * as<double>(of_x[c]) + for_y * as<double>(of_y[c])));
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                   \
  template void row_distance(const Cpu&, RowDistance, const T*, const Acc<T>*, const std::int32_t*, TokenWeight, \
                             double*, double*, std::int64_t, std::int64_t);                                      \
  template void row_distance_gradient(const Cpu&, RowDistance, const T*, const Acc<T>*, const std::int32_t*,     \
                                      TokenWeight, const Acc<T>*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
