#include "kernels/rms_norm.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

std::int64_t row_grain(std::int64_t width) { return 1 + (1 << 14) / (width + 1); }

}  // namespace

template <class X, class Y>
void rms_norm(const Cpu& cpu, const X* x, const Acc<X>* weight, Y* y, Acc<X>* inverse_rms, std::int64_t rows,
              std::int64_t width, double eps) {
  using A = Acc<X>;
  parallel_for(cpu, rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const X* xt = x + t * width;
      Y* yt = y + t * width;
      A squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t c = 0; c < width; ++c) squares += as<A>(xt[c]) * as<A>(xt[c]);
      const A r = 1 / std::sqrt(squares / static_cast<A>(width) + static_cast<A>(eps));
      inverse_rms[t] = r;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) yt[c] = as<Y>(as<A>(xt[c]) * r * weight[c]);
    }
  });
}

template <class X, class Y>
void rms_norm_input_gradient(const Cpu& cpu, const X* x, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                             bool add, X* dx, std::int64_t rows, std::int64_t width) {
  using A = Acc<X>;
  parallel_for(cpu, rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const X* xt = x + t * width;
      const Y* dyt = dy + t * width;
      X* dxt = dx + t * width;
      A dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t c = 0; c < width; ++c) dot += weight[c] * as<A>(dyt[c]) * as<A>(xt[c]);
      const A r = inverse_rms[t];
      const A along = dot * r * r * r / static_cast<A>(width);
      if (add) {
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c)
          dxt[c] = as<X>(as<A>(dxt[c]) + (r * weight[c] * as<A>(dyt[c]) - along * as<A>(xt[c])));
      } else {
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) dxt[c] = as<X>(r * weight[c] * as<A>(dyt[c]) - along * as<A>(xt[c]));
      }
    }
  });
}

template <class X, class Y>
void rms_norm_weight_gradient(const Cpu& cpu, const X* x, const Acc<X>* inverse_rms, const Y* dy, bool add,
                              Acc<X>* dweight, std::int64_t rows, std::int64_t width) {
  using A = Acc<X>;
  constexpr std::int64_t columns = 128;  // one thread sums these over all rows: the order is always the same
  const std::int64_t num_strips = (width + columns - 1) / columns;
  parallel_for(cpu, num_strips, 1 + (1 << 14) / (columns * (rows + 1)), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t first = strip * columns;
      const std::int64_t n = std::min(columns, width - first);
      A sum[columns] = {};
      for (std::int64_t t = 0; t < rows; ++t) {
        const X* xt = x + t * width + first;
        const Y* dyt = dy + t * width + first;
        const A r = inverse_rms[t];
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) sum[c] += as<A>(dyt[c]) * as<A>(xt[c]) * r;
      }
      for (std::int64_t c = 0; c < n; ++c) dweight[first + c] = add ? dweight[first + c] + sum[c] : sum[c];
    }
  });
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                    \
  template void rms_norm(const Cpu&, const X*, const Acc<X>*, Y*, Acc<X>*, std::int64_t, std::int64_t, double);      \
  template void rms_norm_input_gradient(const Cpu&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool, X*,      \
                                        std::int64_t, std::int64_t);                                                 \
  template void rms_norm_weight_gradient(const Cpu&, const X*, const Acc<X>*, const Y*, bool, Acc<X>*, std::int64_t, \
                                         std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

}  // namespace limbeck::kernels
