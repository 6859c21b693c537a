#include "kernels/layer_norm.h"

#include <cmath>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

/// Rows that are worth a thread.
std::int64_t grain(std::int64_t width) { return 1 + (1 << 14) / (width + 1); }

template <class X>
Acc<X> mean_of(const X* x, std::int64_t width) {
  Acc<X> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < width; ++c) sum += as<Acc<X>>(x[c]);
  return sum / static_cast<Acc<X>>(width);
}

template <class X>
Acc<X> variance_of(const X* x, Acc<X> mean, std::int64_t width) {
  using A = Acc<X>;
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t c = 0; c < width; ++c) squares += (as<A>(x[c]) - mean) * (as<A>(x[c]) - mean);
  return squares / static_cast<A>(width);
}

template <class X, class Y>
void row_gradient(const X* x, const Acc<X>* weight, Acc<X> mean, Acc<X> r, const Y* dy, bool add, X* dx,
                  std::int64_t width) {
  using A = Acc<X>;
  A sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (std::int64_t c = 0; c < width; ++c) {
    const A g = weight[c] * as<A>(dy[c]);
    sum += g;
    dot += g * ((as<A>(x[c]) - mean) * r);
  }
  const A of_mean = sum / static_cast<A>(width), along = dot / static_cast<A>(width);
  const auto gradient = [&](std::int64_t c) {
    return r * (weight[c] * as<A>(dy[c]) - of_mean - (as<A>(x[c]) - mean) * r * along);
  };
  if (add) {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) dx[c] = as<X>(as<A>(dx[c]) + gradient(c));
  } else {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) dx[c] = as<X>(gradient(c));
  }
}

}  // namespace

template <class D, class X, class Y>
void layer_norm(const D& cpu, const X* x, const Acc<X>* weight, const Acc<X>* bias, Y* y, Acc<X>* mean,
                Acc<X>* inverse_deviation, std::int64_t rows, std::int64_t width, double eps) {
  using A = Acc<X>;
  parallel_for(cpu, rows, grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const X* from = x + t * width;
      Y* to = y + t * width;
      const A m = mean_of(from, width), r = 1 / std::sqrt(variance_of(from, m, width) + static_cast<A>(eps));
      mean[t] = m;
      inverse_deviation[t] = r;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) to[c] = as<Y>((as<A>(from[c]) - m) * r * weight[c] + bias[c]);
    }
  });
}

template <class D, class X, class Y>
void layer_norm_input_gradient(const D& cpu, const X* x, const Acc<X>* weight, const Acc<X>* mean,
                               const Acc<X>* inverse_deviation, const Y* dy, bool add, X* dx, std::int64_t rows,
                               std::int64_t width) {
  parallel_for(cpu, rows, grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      row_gradient(x + t * width, weight, mean[t], inverse_deviation[t], dy + t * width, add, dx + t * width, width);
  });
}

template <class D, class X, class Y>
void layer_norm_weight_gradient(const D& cpu, const X* x, const Acc<X>* mean, const Acc<X>* inverse_deviation,
                                const Y* dy, bool add, Acc<X>* dweight, std::int64_t rows, std::int64_t width) {
  using A = Acc<X>;
  sum_columns(cpu, rows, width, add, dweight, [=](std::int64_t t, std::int64_t first, std::int64_t n, A* part) {
    const X* x_row = x + t * width + first;
    const Y* dy_row = dy + t * width + first;
    const A m = mean[t], r = inverse_deviation[t];
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) part[c] += as<A>(dy_row[c]) * ((as<A>(x_row[c]) - m) * r);
  });
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                      \
  template void layer_norm(const Cpu&, const X*, const Acc<X>*, const Acc<X>*, Y*, Acc<X>*, Acc<X>*, std::int64_t,     \
                           std::int64_t, double);                                                                      \
  template void layer_norm_input_gradient(const Cpu&, const X*, const Acc<X>*, const Acc<X>*, const Acc<X>*, const Y*, \
                                          bool, X*, std::int64_t, std::int64_t);                                       \
  template void layer_norm_weight_gradient(const Cpu&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool,         \
                                           Acc<X>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

}  // namespace limbeck::kernels
