#include "kernels/activation.h"

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class T, class Of>
struct Activate {
  const T* x;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto v = load<N>(x + i);
    for (int j = 0; j < N; ++j) v[j] *= Of::share(v[j]);
    store(y + i, v);
  }
};

template <class T, class Of>
struct ActivateGradient {
  const T* x;
  const T* dy;
  T* dx;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto v = load<N>(x + i);
    const auto d = load<N>(dy + i);
    for (int j = 0; j < N; ++j) v[j] = Of::gradient(v[j], Acc<T>{1}, d[j]).of_x;
    store(dx + i, v);
  }
};

}  // namespace

template <class D, class T>
void activate(const D& cuda, const T* x, T* y, std::int64_t n, Activation activation) {
  with_activation(activation, [&]<class Of>(Of) {
    for_each_vector<vector_length<T>>(cuda, n, Activate<T, Of>{x, y}, x, y);
  });
}

template <class D, class T>
void activate_gradient(const D& cuda, const T* x, const T* dy, T* dx, std::int64_t n, Activation activation) {
  with_activation(activation, [&]<class Of>(Of) {
    for_each_vector<vector_length<T>>(cuda, n, ActivateGradient<T, Of>{x, dy, dx}, x, dy, dx);
  });
}

#define LIMBECK_INSTANTIATE(T)                                                 \
  template void activate(const Cuda&, const T*, T*, std::int64_t, Activation); \
  template void activate_gradient(const Cuda&, const T*, const T*, T*, std::int64_t, Activation);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
