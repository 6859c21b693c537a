#include "kernels/adamw.h"

#include "kernels/cuda/adamw_update.cuh"
#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/grad_scale.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct AdamW {
  const AdamWFactors<T>* factors;
  const double* grad_scale;
  const T* dx;
  T* x;
  T* mean;
  T* mean_square;
  bf16* rounded;
  template <int N>
  __device__ void run(std::int64_t i) const {
    if (!is_scale_finite(grad_scale)) return;
    const T scale = read_scale<T>(grad_scale);
    const AdamWFactors<T> f = *factors;
    const auto g = dx != nullptr ? load<N>(dx + i) : Values<T, N>{};
    auto value = load<N>(x + i), m = load<N>(mean + i), v = load<N>(mean_square + i);
    for (int j = 0; j < N; ++j) adamw_update(f, scale * g[j], value[j], m[j], v[j]);
    store(x + i, value);
    store(mean + i, m);
    store(mean_square + i, v);
    if (rounded != nullptr) store(rounded + i, value);
  }
};

}  // namespace

template <class D, class T>
void adamw(const D& cuda, const AdamWFactors<T>* factors, const double* grad_scale, const T* dx, T* x, T* mean,
           T* mean_square, std::int64_t n, bf16* rounded) {
  for_each_vector<vector_length<T>>(cuda, n, AdamW<T>{factors, grad_scale, dx, x, mean, mean_square, rounded}, dx, x,
                                    mean, mean_square, rounded);
}

template void adamw(const Cuda&, const AdamWFactors<float>*, const double*, const float*, float*, float*, float*,
                    std::int64_t, bf16*);
template void adamw(const Cuda&, const AdamWFactors<double>*, const double*, const double*, double*, double*, double*,
                    std::int64_t, bf16*);

}  // namespace limbeck::kernels
