#include "kernels/elementwise.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 15;
}

template <class D, class B, class A>
void add_to(const D& cpu, const B* x, A* y, std::int64_t n) {
  add(cpu, y, x, y, n);
}

template <class D, class A, class B>
void add(const D& cpu, const A* a, const B* b, A* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = as<A>(as<Acc<A>>(a[i]) + as<Acc<A>>(b[i]));
  });
}

template <class D, class T>
void scale(const D& cpu, const T* x, Acc<T> factor, T* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = as<T>(factor * as<Acc<T>>(x[i]));
  });
}

template <class D, class T>
void fill(const D& cpu, const T* value, double weight, T* y, std::int64_t n) {
  const T all = as<T>(value == nullptr ? weight : weight * as<double>(*value));
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) { std::fill(y + begin, y + end, all); });
}

template <class D, class T>
void scaled_difference(const D& cpu, const T* a, const T* b, const T* factor, double weight, T* y, std::int64_t n) {
  const auto scale = as<Acc<T>>(weight * as<double>(*factor));
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = as<T>(scale * (as<Acc<T>>(a[i]) - as<Acc<T>>(b[i])));
  });
}

template <class D, class T>
void sum_of_parts(const D& cpu, const T* parts, std::int64_t count, T* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      auto sum = as<Acc<T>>(parts[i]);
      for (std::int64_t p = 1; p < count; ++p) sum += as<Acc<T>>(parts[p * n + i]);
      y[i] = as<T>(sum);
    }
  });
}

#define LIMBECK_INSTANTIATE(A, B)                               \
  template void add_to(const Cpu&, const B*, A*, std::int64_t); \
  template void add(const Cpu&, const A*, const B*, A*, std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

#define LIMBECK_INSTANTIATE_ALIKE(T)                                                                   \
  template void scale(const Cpu&, const T*, Acc<T>, T*, std::int64_t);                                 \
  template void fill(const Cpu&, const T*, double, T*, std::int64_t);                                  \
  template void scaled_difference(const Cpu&, const T*, const T*, const T*, double, T*, std::int64_t); \
  template void sum_of_parts(const Cpu&, const T*, std::int64_t, T*, std::int64_t);
LIMBECK_INSTANTIATE_ALIKE(float)
LIMBECK_INSTANTIATE_ALIKE(double)
LIMBECK_INSTANTIATE_ALIKE(bf16)

}  // namespace limbeck::kernels
