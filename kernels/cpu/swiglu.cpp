#include "kernels/swiglu.h"

#include "kernels/cpu/activations.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain = 1 << 12;

}  // namespace

template <class D, class T>
void swiglu(const D& cpu, const T* gate, const T* up, T* y, std::int64_t n, Activation activation, double limit) {
  with_gated_unit<Acc<T>>(activation, limit, [&](auto unit) {
    parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) y[i] = as<T>(unit.value(as<Acc<T>>(gate[i]), as<Acc<T>>(up[i])));
    });
  });
}

template <class D, class T>
void swiglu_gradient(const D& cpu, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n,
                     Activation activation, double limit) {
  with_gated_unit<Acc<T>>(activation, limit, [&](auto unit) {
    parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const auto d = unit.gradient(as<Acc<T>>(gate[i]), as<Acc<T>>(up[i]), as<Acc<T>>(dy[i]));
        dup[i] = as<T>(d.of_u);
        dgate[i] = as<T>(d.of_x);
      }
    });
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                \
  template void swiglu(const Cpu&, const T*, const T*, T*, std::int64_t, Activation, double); \
  template void swiglu_gradient(const Cpu&, const T*, const T*, const T*, T*, T*, std::int64_t, Activation, double);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
