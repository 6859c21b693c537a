#include "kernels/swiglu.h"

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class T, class Of>
struct Swiglu {
  const T* gate;
  const T* up;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto g = load<N>(gate + i);
    const auto u = load<N>(up + i);
    for (int j = 0; j < N; ++j) g[j] = g[j] * Of::share(g[j]) * u[j];
    store(y + i, g);
  }
};

template <class T, class Of>
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
      const auto both = Of::gradient(g[j], u[j], d[j]);
      u[j] = both.of_u;
      g[j] = both.of_x;
    }
    store(dup + i, u);
    store(dgate + i, g);
  }
};

}  // namespace

template <class D, class T>
void swiglu(const D& cuda, const T* gate, const T* up, T* y, std::int64_t n, Activation activation) {
  with_activation(activation, [&]<class Of>(Of) {
    for_each_vector<vector_length<T>>(cuda, n, Swiglu<T, Of>{gate, up, y}, gate, up, y);
  });
}

template <class D, class T>
void swiglu_gradient(const D& cuda, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n,
                     Activation activation) {
  with_activation(activation, [&]<class Of>(Of) {
    for_each_vector<vector_length<T>>(cuda, n, SwigluGradient<T, Of>{gate, up, dy, dgate, dup}, gate, up, dy, dgate,
                                      dup);
  });
}

#define LIMBECK_INSTANTIATE(T)                                                         \
  template void swiglu(const Cuda&, const T*, const T*, T*, std::int64_t, Activation); \
  template void swiglu_gradient(const Cuda&, const T*, const T*, const T*, T*, T*, std::int64_t, Activation);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
