// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2), as torch.optim.AdamW computes it: one
// pass over the memory of a fragment, 28 bytes an element in float32.
//
//     const AdamWFactors<float> factors{.decay = 1 - rate * weight_decay, .one_minus_beta1 = ...};
//     adamw(device, &factors, clip_factor, gradient, value, mean, mean_square, n);       // where the device is a CPU
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// What a step multiplies with, worked out in float64 by the caller and rounded once. T is float or double.
template <class T>
struct AdamWFactors {
  T decay;                     // 1 - rate * weight_decay
  T one_minus_beta1;           // weight of the gradient in the mean
  T beta2;                     // what is kept of the mean of squares
  T one_minus_beta2;           // weight of the gradient's square
  T step_size;                 // rate / (1 - beta1^step)
  T inverse_root_correction2;  // 1 / sqrt(1 - beta2^step)
  T eps;                       // added to the root of the corrected mean of squares
};

/// With g = *grad_scale * dx[i] (zero if dx is null), for i < n:
///     mean[i]        += one_minus_beta1 * (g - mean[i])
///     mean_square[i] = beta2 * mean_square[i] + one_minus_beta2 * g^2
///     x[i]           = decay * x[i] - step_size * mean[i] / (sqrt(mean_square[i]) * inverse_root_correction2 + eps)
///     rounded[i]      = x[i], unless rounded is null
/// *factors, which are new in each step, and *grad_scale, a factor of clipping, are on the device; a null grad_scale is
/// 1, and where it is not finite, nothing is changed. An element's result does not depend on n, on its place or on the
/// number of threads.
template <class D, class T>
void adamw(const D& device, const AdamWFactors<T>* factors, const double* grad_scale, const T* dx, T* x, T* mean,
           T* mean_square, std::int64_t n, bf16* rounded = nullptr);

}  // namespace limbeck::kernels
