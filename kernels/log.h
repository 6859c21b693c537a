// The natural logarithm for loops that the compiler vectorises: no branch, no table, no call for float.
//
//     #pragma omp simd
//     for (i = 0; i < n; ++i) y[i] = logarithm(x[i]);
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace limbeck::kernels {

/// ln x of a normal positive number within 2 units in the last place, 0 of 1: x = m 2^e with m in [sqrt(1/2), sqrt(2)),
/// and a polynomial of degree 9 (coefficients of Cephes logf, S. Moshier).
constexpr float logarithm(float x) {
  const std::int32_t bits = std::bit_cast<std::int32_t>(x);
  const std::int32_t power = (bits - 0x3f3504f3) >> 23;
  const float f = std::bit_cast<float>(bits - power * (1 << 23)) - 1.0F;
  const float e = static_cast<float>(power);
  float p = 7.0376836292e-2F;
  p = p * f - 1.1514610310e-1F;
  p = p * f + 1.1676998740e-1F;
  p = p * f - 1.2420140846e-1F;
  p = p * f + 1.4249322787e-1F;
  p = p * f - 1.6668057665e-1F;
  p = p * f + 2.0000714765e-1F;
  p = p * f - 2.4999993993e-1F;
  p = p * f + 3.3333331174e-1F;
  const float square = f * f;
  const float y = p * f * square - e * 2.12194440e-4F - 0.5F * square;
  return f + y + e * 0.693359375F;
}

inline double logarithm(double x) { return std::log(x); }

}  // namespace limbeck::kernels
