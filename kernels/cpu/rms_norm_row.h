// One row of a root-mean-square norm: what the norm alone and the norm of a sum (kernels/add_rms_norm.h) have in
// common, so that both give the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/bf16.h"

namespace limbeck::kernels {

/// Rows that are worth a thread.
inline std::int64_t rms_norm_grain(std::int64_t width) { return 1 + (1 << 14) / (width + 1); }

template <class X>
Acc<X> inverse_rms_of_row(const X* x, std::int64_t width, double eps) {
  using A = Acc<X>;
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t c = 0; c < width; ++c) squares += as<A>(x[c]) * as<A>(x[c]);
  return 1 / std::sqrt(squares / static_cast<A>(width) + static_cast<A>(eps));
}

template <class X, class Y>
void normalise_row(const X* x, Acc<X> r, const Acc<X>* weight, Y* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) y[c] = as<Y>(as<Acc<X>>(x[c]) * r * weight[c]);
}

template <class X, class Y>
void rms_norm_row_gradient(const X* x, const Acc<X>* weight, Acc<X> r, const Y* dy, bool add, X* dx,
                           std::int64_t width) {
  using A = Acc<X>;
  A dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t c = 0; c < width; ++c) dot += weight[c] * as<A>(dy[c]) * as<A>(x[c]);
  const A along = dot * r * r * r / static_cast<A>(width);
  if (add) {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c)
      dx[c] = as<X>(as<A>(dx[c]) + (r * weight[c] * as<A>(dy[c]) - along * as<A>(x[c])));
  } else {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) dx[c] = as<X>(r * weight[c] * as<A>(dy[c]) - along * as<A>(x[c]));
  }
}

/// sum[c] += the row's part of the weight's gradient.
template <class X, class Y>
void add_row_to_weight_gradient(const X* x, Acc<X> r, const Y* dy, Acc<X>* sum, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) sum[c] += as<Acc<X>>(dy[c]) * as<Acc<X>>(x[c]) * r;
}

}  // namespace limbeck::kernels
