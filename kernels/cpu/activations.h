// Activations in a loop that the compiler vectorises.
//
//     with_activation(activation, [&]<class Of>(Of) {
//     #pragma omp simd
//       for (i = 0; i < n; ++i) y[i] = x[i] * Of::share(x[i]);
//     });
#pragma once

#include "kernels/activation.h"
#include "kernels/cpu/larger.h"
#include "kernels/gaussian.h"
#include "kernels/sigmoid.h"

namespace limbeck::kernels {

/// Of share(x) x u: what dy gives x and u.
template <class A>
struct GatedGradient {
  A of_x, of_u;
};

struct SiluActivation {
  template <class A>
  static A share(A x) {
    return sigmoid(x);
  }
  template <class A>
  static GatedGradient<A> gradient(A x, A u, A dy) {
    const A s = sigmoid(x);
    const A ds = dy * s;
    return {ds * u * (1 + x * (1 - s)), ds * x};
  }
};

struct GeluTanhActivation {
  template <class A>
  static A share(A x) {
    return sigmoid(gelu_tanh_argument(x));
  }
  template <class A>
  static GatedGradient<A> gradient(A x, A u, A dy) {
    const A s = share(x);
    const A ds = dy * s;
    const A near = smaller(larger(x, A(-gelu_tanh_range)), A(gelu_tanh_range));
    return {ds * u * (1 + near * (1 - s) * gelu_tanh_argument_slope(near)), ds * x};
  }
};

struct GeluActivation {
  template <class A>
  static A share(A x) {
    return gaussian(x).below;
  }
  template <class A>
  static GatedGradient<A> gradient(A x, A u, A dy) {
    const Gaussian<A> at = gaussian(x);
    return {dy * u * (at.below + x * at.density), dy * at.below * x};
  }
};

/// f(gate) up, where f is one of those above.
template <class Of>
struct GatedBy {
  template <class A>
  A value(A x, A u) const {
    return x * Of::share(x) * u;
  }
  template <class A>
  GatedGradient<A> gradient(A x, A u, A dy) const {
    return Of::gradient(x, u, dy);
  }
};

template <class A>
struct ClampedSwishGate {
  A limit;

  A value(A x, A u) const {
    const A g = smaller(x, limit);
    return g * sigmoid(clamped_swish_slope<A> * g) * (within(u) + 1);
  }
  GatedGradient<A> gradient(A x, A u, A dy) const {
    const A g = smaller(x, limit), s = sigmoid(clamped_swish_slope<A> * g), ds = dy * s;
    const A near = larger(g, A(-clamped_swish_range));
    const A of_g = ds * (within(u) + 1) * (1 + clamped_swish_slope<A> * near * (1 - s));
    return {x > limit ? A(0) : of_g, u > limit || u < -limit ? A(0) : ds * g};
  }
  A within(A u) const { return larger(smaller(u, limit), -limit); }
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
