// Activations on a GPU: the twins of those of kernels/cpu/activations.h.
//
//     with_activation(activation, [&]<class Of>(Of) { for_each_vector<N>(cuda, n, Activate<T, Of>{x, y}, x, y); });
#pragma once

#include <cmath>

#include "kernels/activation.h"

namespace limbeck::kernels {

/// 0 and 1 at the infinities.
template <class A>
__device__ A logistic(A x) {
  return A{1} / (A{1} + std::exp(-x));
}

/// Of share(x) x u: what dy gives x and u.
template <class A>
struct GatedGradient {
  A of_x, of_u;
};

struct SiluActivation {
  template <class A>
  __device__ static A share(A x) {
    return logistic(x);
  }
  template <class A>
  __device__ static GatedGradient<A> gradient(A x, A u, A dy) {
    const A s = logistic(x), ds = dy * s;
    return {ds * u * (1 + x * (1 - s)), ds * x};
  }
};

struct GeluTanhActivation {
  template <class A>
  __device__ static A share(A x) {
    return logistic(gelu_tanh_argument(x));
  }
  template <class A>
  __device__ static GatedGradient<A> gradient(A x, A u, A dy) {
    constexpr A range = gelu_tanh_range;
    const A s = share(x), ds = dy * s;
    const A near = x > range ? range : x < -range ? -range : x;
    return {ds * u * (1 + near * (1 - s) * gelu_tanh_argument_slope(near)), ds * x};
  }
};

struct GeluActivation {
  template <class A>
  __device__ static A share(A x) {
    return A(0.5) * std::erfc(A(-0.70710678118654752440) * x);
  }
  template <class A>
  __device__ static GatedGradient<A> gradient(A x, A u, A dy) {
    const A s = share(x), density = A(0.39894228040143267794) * std::exp(A(-0.5) * x * x);
    return {dy * u * (s + x * density), dy * s * x};
  }
};

/// f(gate) up, where f is one of those above.
template <class Of>
struct GatedBy {
  template <class A>
  __device__ A value(A x, A u) const {
    return x * Of::share(x) * u;
  }
  template <class A>
  __device__ GatedGradient<A> gradient(A x, A u, A dy) const {
    return Of::gradient(x, u, dy);
  }
};

template <class A>
struct ClampedSwishGate {
  A limit;

  __device__ A value(A x, A u) const {
    const A g = x > limit ? limit : x;
    return g * logistic(clamped_swish_slope<A> * g) * (within(u) + 1);
  }
  __device__ GatedGradient<A> gradient(A x, A u, A dy) const {
    const A g = x > limit ? limit : x, s = logistic(clamped_swish_slope<A> * g), ds = dy * s;
    const A near = g < -clamped_swish_range ? A(-clamped_swish_range) : g;
    const A of_g = ds * (within(u) + 1) * (1 + clamped_swish_slope<A> * near * (1 - s));
    return {x > limit ? A(0) : of_g, u > limit || u < -limit ? A(0) : ds * g};
  }
  __device__ A within(A u) const { return u > limit ? limit : u < -limit ? -limit : u; }
};

template <class F>
void with_activation(Activation activation, F&& f) {
  if (activation == Activation::Silu)
    f(SiluActivation());
  else if (activation == Activation::GeluTanh)
    f(GeluTanhActivation());
  else
    f(GeluActivation());
}

/// f(unit) with value() and gradient() of A.
template <class A, class F>
void with_gated_unit(Activation activation, double limit, F&& f) {
  if (activation == Activation::ClampedSwish)
    f(ClampedSwishGate<A>{static_cast<A>(limit)});
  else
    with_activation(activation, [&]<class Of>(Of) { f(GatedBy<Of>()); });
}

}  // namespace limbeck::kernels
