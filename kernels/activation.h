// What a feed-forward does to each of its values: x s(x), where s is a sigmoid or the normal distribution.
//
//     activate(cpu, x, y, n, Activation::GeluTanh);
//     activate_gradient(cpu, x, dy, dx, n, Activation::GeluTanh);
//
// T is float, double or bf16; arithmetic is in Acc<T>, each result rounded once. Derivation: docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// Hendrycks & Gimpel 2016, "Gaussian error linear units": x Φ(x) is Gelu, and x (1 + tanh(sqrt(2/π) (x + 0.044715
/// x³))) / 2 GeluTanh, which others call gelu_new or gelu_pytorch_tanh. As (1 + tanh(a)) / 2 = sigmoid(2 a), that is
/// x sigmoid(v(x)) as Silu is x sigmoid(x).
/// ClampedSwish is of gated units alone (kernels/swiglu.h).
enum class Activation : std::uint8_t { Silu, GeluTanh, Gelu, ClampedSwish };

/// v(x) of GeluTanh, and its derivative.
template <class A>
constexpr A gelu_tanh_argument(A x) {
  return static_cast<A>(1.5957691216057307118) * x * (1 + static_cast<A>(0.044715) * (x * x));
}
template <class A>
constexpr A gelu_tanh_argument_slope(A x) {
  return static_cast<A>(1.5957691216057307118) * (1 + static_cast<A>(0.134145) * (x * x));
}
/// ClampedSwish's x sigmoid(1.702 x), near Gelu.
template <class A>
inline constexpr A clamped_swish_slope = static_cast<A>(1.702);
/// Farther below 0 its sigmoid is 0 in every type, and what it is multiplied with might be infinite.
inline constexpr int clamped_swish_range = 1000;
/// Farther from 0 the sigmoid of v(x) is 0 or 1 in every type, and powers of x might overflow.
inline constexpr int gelu_tanh_range = 100;

/// y[i] = x[i] s(x[i]); y may be x.
template <class D, class T>
void activate(const D& device, const T* x, T* y, std::int64_t n, Activation activation);

/// dx[i] = dy[i] (s(x[i]) + x[i] s'(x[i])); dx may be dy.
template <class D, class T>
void activate_gradient(const D& device, const T* x, const T* dy, T* dx, std::int64_t n, Activation activation);

}  // namespace limbeck::kernels
