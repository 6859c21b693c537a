#include "kernels/elementwise.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 15;
}

template <class T>
void add_to(const Cpu& cpu, const T* x, T* y, std::int64_t n) {
  add(cpu, x, y, y, n);
}

template <class T>
void add(const Cpu& cpu, const T* a, const T* b, T* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = a[i] + b[i];
  });
}

template <class T>
void scale(const Cpu& cpu, const T* x, T factor, T* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = factor * x[i];
  });
}

template <class T>
void fill(const Cpu& cpu, const T* value, double weight, T* y, std::int64_t n) {
  const T all = static_cast<T>(weight * static_cast<double>(*value));
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) { std::fill(y + begin, y + end, all); });
}

template <class T>
void scaled_difference(const Cpu& cpu, const T* a, const T* b, const T* factor, double weight, T* y, std::int64_t n) {
  const T scale = static_cast<T>(weight * static_cast<double>(*factor));
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = scale * (a[i] - b[i]);
  });
}

void round_to_bf16(const Cpu& cpu, const float* x, bf16* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = bf16(x[i]);
  });
}

template void add_to(const Cpu&, const float*, float*, std::int64_t);
template void add_to(const Cpu&, const double*, double*, std::int64_t);
template void add(const Cpu&, const float*, const float*, float*, std::int64_t);
template void add(const Cpu&, const double*, const double*, double*, std::int64_t);
template void scale(const Cpu&, const float*, float, float*, std::int64_t);
template void scale(const Cpu&, const double*, double, double*, std::int64_t);
template void fill(const Cpu&, const float*, double, float*, std::int64_t);
template void fill(const Cpu&, const double*, double, double*, std::int64_t);
template void scaled_difference(const Cpu&, const float*, const float*, const float*, double, float*, std::int64_t);
template void scaled_difference(const Cpu&, const double*, const double*, const double*, double, double*, std::int64_t);

}  // namespace limbeck::kernels
