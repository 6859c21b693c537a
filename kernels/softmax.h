// Softmax by rows. T is float or double. Derivation: docs/gradients.md.
//
//     softmax(cpu, x, y, T, V);
//     softmax_gradient(cpu, y, dy, dx, T, V);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// y[t] = softmax(x[t]); y may be x.
template <class D, class T>
void softmax(const D& device, const T* x, T* y, std::int64_t rows, std::int64_t width);

/// dx[t,j] = y[t,j] (dy[t,j] - Σ_i dy[t,i] y[t,i]), y the softmax. Overwrites; dx may be dy.
template <class D, class T>
void softmax_gradient(const D& device, const T* y, const T* dy, T* dx, std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
