#include "kernels/swiglu.h"

#include <cmath>

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

/// 0 and 1 at the infinities.
template <class A>
__device__ A logistic(A x) {
  return A{1} / (A{1} + std::exp(-x));
}

template <class T>
struct Swiglu {
  const T* gate;
  const T* up;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto g = load<N>(gate + i);
    const auto u = load<N>(up + i);
    for (int j = 0; j < N; ++j) g[j] = g[j] * logistic(g[j]) * u[j];
    store(y + i, g);
  }
};

template <class T>
struct SwigluGradient {
  const T* gate;
  const T* up;
  const T* dy;
  T* dgate;
  T* dup;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto g = load<N>(gate + i), u = load<N>(up + i);
    const auto d = load<N>(dy + i);
    for (int j = 0; j < N; ++j) {
      const auto s = logistic(g[j]), ds = d[j] * s;
      const auto of_gate = ds * u[j] * (1 + g[j] * (1 - s));
      u[j] = ds * g[j];
      g[j] = of_gate;
    }
    store(dup + i, u);
    store(dgate + i, g);
  }
};

}  // namespace

template <class D, class T>
void swiglu(const D& cuda, const T* gate, const T* up, T* y, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, Swiglu<T>{gate, up, y}, gate, up, y);
}

template <class D, class T>
void swiglu_gradient(const D& cuda, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, SwigluGradient<T>{gate, up, dy, dgate, dup}, gate, up, dy, dgate, dup);
}

#define LIMBECK_INSTANTIATE(T)                                             \
  template void swiglu(const Cuda&, const T*, const T*, T*, std::int64_t); \
  template void swiglu_gradient(const Cuda&, const T*, const T*, const T*, T*, T*, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
