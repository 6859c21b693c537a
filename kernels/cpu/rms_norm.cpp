#include "kernels/rms_norm.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

std::int64_t row_grain(std::int64_t width) { return 1 + (1 << 14) / (width + 1); }

}  // namespace

template <class T>
void rms_norm(const Cpu& cpu, const T* x, const T* weight, T* y, T* inverse_rms, std::int64_t rows, std::int64_t width,
              double eps) {
  parallel_for(cpu, rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* xt = x + t * width;
      T* yt = y + t * width;
      T squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t c = 0; c < width; ++c) squares += xt[c] * xt[c];
      const T r = 1 / std::sqrt(squares / static_cast<T>(width) + static_cast<T>(eps));
      inverse_rms[t] = r;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) yt[c] = xt[c] * r * weight[c];
    }
  });
}

template <class T>
void rms_norm_input_gradient(const Cpu& cpu, const T* x, const T* weight, const T* inverse_rms, const T* dy, bool add,
                             T* dx, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* xt = x + t * width;
      const T* dyt = dy + t * width;
      T* dxt = dx + t * width;
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t c = 0; c < width; ++c) dot += weight[c] * dyt[c] * xt[c];
      const T r = inverse_rms[t];
      const T along = dot * r * r * r / static_cast<T>(width);
      if (add) {
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) dxt[c] += r * weight[c] * dyt[c] - along * xt[c];
      } else {
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) dxt[c] = r * weight[c] * dyt[c] - along * xt[c];
      }
    }
  });
}

template <class T>
void rms_norm_weight_gradient(const Cpu& cpu, const T* x, const T* inverse_rms, const T* dy, bool add, T* dweight,
                              std::int64_t rows, std::int64_t width) {
  constexpr std::int64_t columns = 128;  // one thread sums these over all rows: the order is always the same
  const std::int64_t num_strips = (width + columns - 1) / columns;
  parallel_for(cpu, num_strips, 1 + (1 << 14) / (columns * (rows + 1)), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t first = strip * columns;
      const std::int64_t n = std::min(columns, width - first);
      T sum[columns] = {};
      for (std::int64_t t = 0; t < rows; ++t) {
        const T* xt = x + t * width + first;
        const T* dyt = dy + t * width + first;
        const T r = inverse_rms[t];
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) sum[c] += dyt[c] * xt[c] * r;
      }
      for (std::int64_t c = 0; c < n; ++c) dweight[first + c] = add ? dweight[first + c] + sum[c] : sum[c];
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                      \
  template void rms_norm(const Cpu&, const T*, const T*, T*, T*, std::int64_t, std::int64_t, double);               \
  template void rms_norm_input_gradient(const Cpu&, const T*, const T*, const T*, const T*, bool, T*, std::int64_t, \
                                        std::int64_t);                                                              \
  template void rms_norm_weight_gradient(const Cpu&, const T*, const T*, const T*, bool, T*, std::int64_t,          \
                                         std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
