#include "kernels/bias.h"

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void add_bias(const D& cpu, const T* x, const Acc<T>* bias, T* y, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, 1 + (1 << 15) / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) y[t * width + c] = as<T>(as<Acc<T>>(x[t * width + c]) + bias[c]);
  });
}

template <class D, class T>
void column_sums(const D& cpu, const T* x, bool add, Acc<T>* sums, std::int64_t rows, std::int64_t width) {
  sum_columns(cpu, rows, width, add, sums, [=](std::int64_t t, std::int64_t first, std::int64_t n, Acc<T>* part) {
    const T* row = x + t * width + first;
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) part[c] += as<Acc<T>>(row[c]);
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                 \
  template void add_bias(const Cpu&, const T*, const Acc<T>*, T*, std::int64_t, std::int64_t); \
  template void column_sums(const Cpu&, const T*, bool, Acc<T>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
