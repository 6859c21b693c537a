#include "kernels/swiglu.h"

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class T, class Unit>
struct Swiglu {
  const T* gate;
  const T* up;
  T* y;
  Unit unit;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto g = load<N>(gate + i);
    const auto u = load<N>(up + i);
    for (int j = 0; j < N; ++j) g[j] = unit.value(g[j], u[j]);
    store(y + i, g);
  }
};

template <class T, class Unit>
struct SwigluGradient {
  const T* gate;
  const T* up;
  const T* dy;
  T* dgate;
  T* dup;
  Unit unit;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto g = load<N>(gate + i), u = load<N>(up + i);
    const auto d = load<N>(dy + i);
    for (int j = 0; j < N; ++j) {
      const auto both = unit.gradient(g[j], u[j], d[j]);
      u[j] = both.of_u;
      g[j] = both.of_x;
    }
    store(dup + i, u);
    store(dgate + i, g);
  }
};

}  // namespace

template <class D, class T>
void swiglu(const D& cuda, const T* gate, const T* up, T* y, std::int64_t n, Activation activation, double limit) {
  with_gated_unit<Acc<T>>(activation, limit, [&]<class Unit>(const Unit& unit) {
    for_each_vector<vector_length<T>>(cuda, n, Swiglu<T, Unit>{gate, up, y, unit}, gate, up, y);
  });
}

template <class D, class T>
void swiglu_gradient(const D& cuda, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n,
                     Activation activation, double limit) {
  with_gated_unit<Acc<T>>(activation, limit, [&]<class Unit>(const Unit& unit) {
    for_each_vector<vector_length<T>>(cuda, n, SwigluGradient<T, Unit>{gate, up, dy, dgate, dup, unit}, gate, up, dy,
                                      dgate, dup);
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                 \
  template void swiglu(const Cuda&, const T*, const T*, T*, std::int64_t, Activation, double); \
  template void swiglu_gradient(const Cuda&, const T*, const T*, const T*, T*, T*, std::int64_t, Activation, double);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
