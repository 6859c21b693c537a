// The gated unit of Llama's feed-forward (Shazeer 2020, "GLU variants improve transformer"): silu(gate) * up, where
// silu(g) = g / (1 + exp(-g)).
//
//     swiglu(cpu, gate, up, y, n);
//     swiglu_gradient(cpu, gate, up, dy, dgate, dup, n);
//
// T is float, double or bf16; arithmetic is in Acc<T>, each result rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[i] = silu(gate[i]) up[i]; y may be gate or up.
template <class D, class T>
void swiglu(const D& device, const T* gate, const T* up, T* y, std::int64_t n);

/// With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)), dup = dy gate s. Overwrites both.
template <class D, class T>
void swiglu_gradient(const D& device, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n);

}  // namespace limbeck::kernels
