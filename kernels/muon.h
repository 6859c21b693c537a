// The elementwise parts of Muon (Jordan et al., 2024; Liu et al., 2025, "Muon is scalable for LLM training"): momentum
// before the orthogonalisation, the step after it.
//
//     nesterov(device, momentum, clip_factor, gradient, buffer, update, n);
//     normalise(device, squares, 1e-7, update, n);                          // and the update is made orthogonal
//     const DecayedStep<float> step{1 - rate * weight_decay, step_size};
//     decayed_step(device, &step, clip_factor, update, value, n);                // where the device is a CPU
//
// *grad_scale is on the device, and null is 1; where it is not finite, nothing is changed.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// With g = *grad_scale * dx[i] (zero if dx is null), for i < n, as torch.optim.Muon:
///     buffer[i] += (1 - momentum) * (g - buffer[i])
///     update[i]  = g + momentum * (buffer[i] - g)
template <class D, class T>
void nesterov(const D& device, T momentum, const double* grad_scale, const T* dx, T* buffer, T* update, std::int64_t n);

/// x[i] /= max(sqrt(*squares), least); *squares is on the device.
template <class D, class T>
void normalise(const D& device, const double* squares, double least, T* x, std::int64_t n);

template <class T>
struct DecayedStep {
  T decay;
  T step_size;
};

/// x[i] = decay * x[i] - step_size * update[i], and rounded[i] = x[i], unless rounded is null; *step is on the device.
template <class D, class T>
void decayed_step(const D& device, const DecayedStep<T>* step, const double* grad_scale, const T* update, T* x,
                  std::int64_t n, bf16* rounded = nullptr);

}  // namespace limbeck::kernels
