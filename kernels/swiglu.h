// Gated units of feed-forwards (Shazeer 2020, "GLU variants improve transformer"): f(gate) * up, where f is Llama's
// silu(g) = g / (1 + exp(-g)) or another of kernels/activation.h.
//
//     swiglu(cpu, gate, up, y, n);
//     swiglu_gradient(cpu, gate, up, dy, dgate, dup, n);
//
// ClampedSwish (gpt-oss) is of both: with g = min(gate, limit) and u = max(min(up, limit), -limit) it is
// g sigmoid(1.702 g) (u + 1). Nothing flows back to what is beyond the limit.
//
// T is float, double or bf16; arithmetic is in Acc<T>, each result rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/activation.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[i] = gate[i] s(gate[i]) up[i]; y may be gate or up. `limit` is ClampedSwish's.
template <class D, class T>
void swiglu(const D& device, const T* gate, const T* up, T* y, std::int64_t n, Activation activation = Activation::Silu,
            double limit = 0);

/// With s = s(gate), its derivative s': dgate = dy up (s + gate s'), dup = dy gate s. Overwrites both.
template <class D, class T>
void swiglu_gradient(const D& device, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n,
                     Activation activation = Activation::Silu, double limit = 0);

}  // namespace limbeck::kernels
