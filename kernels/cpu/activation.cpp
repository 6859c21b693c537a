#include "kernels/activation.h"

#include "kernels/cpu/activations.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 12;
}

template <class D, class T>
void activate(const D& cpu, const T* x, T* y, std::int64_t n, Activation activation) {
  with_activation(activation, [&]<class Of>(Of) {
    parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const auto v = as<Acc<T>>(x[i]);
        y[i] = as<T>(v * Of::share(v));
      }
    });
  });
}

template <class D, class T>
void activate_gradient(const D& cpu, const T* x, const T* dy, T* dx, std::int64_t n, Activation activation) {
  with_activation(activation, [&]<class Of>(Of) {
    parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        dx[i] = as<T>(Of::gradient(as<Acc<T>>(x[i]), Acc<T>(1), as<Acc<T>>(dy[i])).of_x);
    });
  });
}

#define LIMBECK_INSTANTIATE(T)                                                \
  template void activate(const Cpu&, const T*, T*, std::int64_t, Activation); \
  template void activate_gradient(const Cpu&, const T*, const T*, T*, std::int64_t, Activation);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
