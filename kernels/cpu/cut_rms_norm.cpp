#include "kernels/cut_rms_norm.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rms_norm_row.h"

namespace limbeck::kernels {

template <class D, class T>
void row_squares(const D& cpu, const T* x, Acc<T>* squares, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* row = x + t * width;
      Acc<T> sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < width; ++c) sum += as<Acc<T>>(row[c]) * as<Acc<T>>(row[c]);
      squares[t] = sum;
    }
  });
}

template <class D, class T>
void cut_rms_norm(const D& cpu, const T* x, const Acc<T>* weight, const Acc<T>* squares, T* y, Acc<T>* inverse_rms,
                  std::int64_t rows, std::int64_t width, std::int64_t total, double eps) {
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      inverse_rms[t] = 1 / std::sqrt(squares[t] / static_cast<Acc<T>>(total) + static_cast<Acc<T>>(eps));
      normalise_row(x + t * width, inverse_rms[t], weight, y + t * width, width);
    }
  });
}

template <class D, class T>
void row_dots(const D& cpu, const T* x, const Acc<T>* weight, const T* dy, Acc<T>* dots, std::int64_t rows,
              std::int64_t width) {
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T *row = x + t * width, *drow = dy + t * width;
      Acc<T> sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < width; ++c) sum += weight[c] * as<Acc<T>>(drow[c]) * as<Acc<T>>(row[c]);
      dots[t] = sum;
    }
  });
}

template <class D, class T>
void cut_rms_norm_input_gradient(const D& cpu, const T* x, const Acc<T>* weight, const Acc<T>* inverse_rms,
                                 const Acc<T>* dots, const T* dy, bool add, T* dx, std::int64_t rows,
                                 std::int64_t width, std::int64_t total) {
  using A = Acc<T>;
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const A r = inverse_rms[t], along = dots[t] * r * r * r / static_cast<A>(total);
      const T *row = x + t * width, *drow = dy + t * width;
      T* to = dx + t * width;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) {
        const A d = r * weight[c] * as<A>(drow[c]) - along * as<A>(row[c]);
        to[c] = as<T>(add ? as<A>(to[c]) + d : d);
      }
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                 \
  template void row_squares(const Cpu&, const T*, Acc<T>*, std::int64_t, std::int64_t);                        \
  template void cut_rms_norm(const Cpu&, const T*, const Acc<T>*, const Acc<T>*, T*, Acc<T>*, std::int64_t,    \
                             std::int64_t, std::int64_t, double);                                              \
  template void row_dots(const Cpu&, const T*, const Acc<T>*, const T*, Acc<T>*, std::int64_t, std::int64_t);  \
  template void cut_rms_norm_input_gradient(const Cpu&, const T*, const Acc<T>*, const Acc<T>*, const Acc<T>*, \
                                            const T*, bool, T*, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
