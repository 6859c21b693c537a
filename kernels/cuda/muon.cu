#include "kernels/muon.h"

#include <cmath>

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/grad_scale.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct Nesterov {
  T momentum;
  const double* grad_scale;
  const T* dx;
  T* buffer;
  T* update;
  template <int N>
  __device__ void run(std::int64_t i) const {
    if (!is_scale_finite(grad_scale)) return;
    const T scale = read_scale<T>(grad_scale);
    auto g = dx != nullptr ? load<N>(dx + i) : Values<T, N>{};
    auto b = load<N>(buffer + i);
    for (int j = 0; j < N; ++j) {
      g[j] *= scale;
      b[j] += (1 - momentum) * (g[j] - b[j]);
      g[j] += momentum * (b[j] - g[j]);
    }
    store(buffer + i, b);
    store(update + i, g);
  }
};

template <class T>
struct Normalise {
  const double* squares;
  double least;
  T* x;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const double norm = std::sqrt(*squares);
    const T factor = static_cast<T>(1 / (norm < least ? least : norm));
    auto v = load<N>(x + i);
    for (int j = 0; j < N; ++j) v[j] *= factor;
    store(x + i, v);
  }
};

template <class T>
struct StepOfWeights {
  const DecayedStep<T>* step;
  const double* grad_scale;
  const T* update;
  T* x;
  bf16* rounded;
  template <int N>
  __device__ void run(std::int64_t i) const {
    if (!is_scale_finite(grad_scale)) return;
    const auto [decay, step_size] = *step;
    auto value = load<N>(x + i);
    const auto u = load<N>(update + i);
    for (int j = 0; j < N; ++j) value[j] = std::fma(decay, value[j], -(step_size * u[j]));
    store(x + i, value);
    if (rounded != nullptr) store(rounded + i, value);
  }
};

}  // namespace

template <class D, class T>
void nesterov(const D& cuda, T momentum, const double* grad_scale, const T* dx, T* buffer, T* update, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, Nesterov<T>{momentum, grad_scale, dx, buffer, update}, dx, buffer, update);
}

template <class D, class T>
void normalise(const D& cuda, const double* squares, double least, T* x, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, Normalise<T>{squares, least, x}, x);
}

template <class D, class T>
void decayed_step(const D& cuda, const DecayedStep<T>* step, const double* grad_scale, const T* update, T* x,
                  std::int64_t n, bf16* rounded) {
  for_each_vector<vector_length<T>>(cuda, n, StepOfWeights<T>{step, grad_scale, update, x, rounded}, update, x,
                                    rounded);
}

template void nesterov(const Cuda&, float, const double*, const float*, float*, float*, std::int64_t);
template void nesterov(const Cuda&, double, const double*, const double*, double*, double*, std::int64_t);
template void normalise(const Cuda&, const double*, double, float*, std::int64_t);
template void normalise(const Cuda&, const double*, double, double*, std::int64_t);
template void decayed_step(const Cuda&, const DecayedStep<float>*, const double*, const float*, float*, std::int64_t,
                           bf16*);
template void decayed_step(const Cuda&, const DecayedStep<double>*, const double*, const double*, double*, std::int64_t,
                           bf16*);

}  // namespace limbeck::kernels
