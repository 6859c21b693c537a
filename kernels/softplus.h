// ln(1 + e^x) for loops that the compiler vectorises: no branch, no table, no call for float.
//
//     #pragma omp simd
//     for (i = 0; i < n; ++i) y[i] = softplus(x[i]);
#pragma once

#include <cmath>

#include "kernels/exp.h"
#include "kernels/log.h"

namespace limbeck::kernels {

/// Within a few units in the last place, also where it is small, down to x = -87; NaN for NaN. By u = e^-|x| it is
/// max(x, 0) + ln(1 + u), and ln(1 + u) = ln(w) u / (w - 1) of w = 1 + u as it is rounded.
constexpr float softplus(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float u = exponential_in_range(magnitude > 87.0F ? -87.0F : -magnitude);
  const float w = 1.0F + u;
  const float d = w - 1.0F;
  const float tail = d > 0 ? logarithm(w) * (u / d) : u;
  return x > 0 ? x + tail : tail;
}

inline double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

}  // namespace limbeck::kernels
