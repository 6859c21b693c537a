// AdamW's step of one value, of whole moments and of those in 8 bits alike.
#pragma once

#include <cmath>

#include "gpu.h"
#include "kernels/adamw.h"

namespace limbeck::kernels {

/// Sums of two products are fused by hand, so that a value's bits do not depend on the code around it.
template <class T>
__device__ void adamw_update(const AdamWFactors<T>& f, T g, T& x, T& mean, T& mean_square) {
  mean = std::fma(f.one_minus_beta1, g - mean, mean);
  mean_square = std::fma(f.beta2, mean_square, f.one_minus_beta2 * (g * g));
  const T step = mean / std::fma(std::sqrt(mean_square), f.inverse_root_correction2, f.eps);
  x = std::fma(f.decay, x, -(f.step_size * step));
}

}  // namespace limbeck::kernels
