// The logistic function for loops that the compiler vectorises: no branch, no table, no call for float.
//
//     #pragma omp simd
//     for (i = 0; i < n; ++i) y[i] = sigmoid(x[i]);
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/exp.h"

namespace limbeck::kernels {

/// 1 / (1 + e^-x) within 3 units in the last place down to x = -87; 0 below -88. A NaN gives 0 or 1: whoever multiplies
/// by x has one again. By t = e^-|x|, in (0, 1], as 1 / (1 + t) or t / (1 + t): e^-|x| takes fewer operations than
/// exponential does for any x.
constexpr float sigmoid(float x) {
  constexpr std::uint32_t farthest = std::bit_cast<std::uint32_t>(88.0F);  // there e^-|x| is 0 below
  const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x) & 0x7fffffffU;
  const float t = exponential_in_range(-std::bit_cast<float>(magnitude < farthest ? magnitude : farthest));
  return (x < 0 ? t : 1.0F) / (1.0F + t);
}

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace limbeck::kernels
