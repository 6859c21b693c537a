#include "kernels/gate_rows.h"

#include "kernels/cpu/parallel_for.h"
#include "kernels/sigmoid.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain(std::int64_t width) { return 1 + (1 << 14) / (width + 1); }

}  // namespace

template <class D, class T>
void gate_rows(const D& cpu, const T* gate, const T* x, T* y, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto s = sigmoid(as<Acc<T>>(gate[t]));
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) y[t * width + c] = as<T>(s * as<Acc<T>>(x[t * width + c]));
    }
  });
}

template <class D, class T>
void gate_rows_gradient(const D& cpu, const T* gate, const T* x, const T* dy, T* dgate, T* dx, std::int64_t rows,
                        std::int64_t width) {
  parallel_for(cpu, rows, grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto s = sigmoid(as<Acc<T>>(gate[t]));
      const T *row = x + t * width, *drow = dy + t * width;
      T* to = dx + t * width;
      Acc<T> sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < width; ++c) {
        sum += as<Acc<T>>(drow[c]) * as<Acc<T>>(row[c]);
        to[c] = as<T>(s * as<Acc<T>>(drow[c]));
      }
      dgate[t] = as<T>(s * (1 - s) * sum);
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                             \
  template void gate_rows(const Cpu&, const T*, const T*, T*, std::int64_t, std::int64_t); \
  template void gate_rows_gradient(const Cpu&, const T*, const T*, const T*, T*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
