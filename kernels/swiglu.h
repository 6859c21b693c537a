// Gated units of feed-forwards (Shazeer 2020, "GLU variants improve transformer"): f(gate) * up, where f is Llama's
// silu(g) = g / (1 + exp(-g)) or another of kernels/activation.h.
//
//     swiglu(cpu, gate, up, y, n);
//     swiglu_gradient(cpu, gate, up, dy, dgate, dup, n);
//
// T is float, double or bf16; arithmetic is in Acc<T>, each result rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/activation.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[i] = gate[i] s(gate[i]) up[i]; y may be gate or up.
template <class D, class T>
void swiglu(const D& device, const T* gate, const T* up, T* y, std::int64_t n,
            Activation activation = Activation::Silu);

/// With s = s(gate), its derivative s': dgate = dy up (s + gate s'), dup = dy gate s. Overwrites both.
template <class D, class T>
void swiglu_gradient(const D& device, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n,
                     Activation activation = Activation::Silu);

}  // namespace limbeck::kernels
