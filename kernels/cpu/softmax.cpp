#include "kernels/softmax.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

/// Rows that are worth a thread.
std::int64_t grain(std::int64_t width) { return 1 + (1 << 13) / (width + 1); }

}  // namespace

template <class D, class T>
void softmax(const D& cpu, const T* x, T* y, std::int64_t rows, std::int64_t width) {
  if (width == 0) return;
  parallel_for(cpu, rows, grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* from = x + t * width;
      T* to = y + t * width;
      const T largest = *std::max_element(from, from + width);
      T sum = 0;
      for (std::int64_t e = 0; e < width; ++e) sum += to[e] = std::exp(from[e] - largest);
      for (std::int64_t e = 0; e < width; ++e) to[e] /= sum;
    }
  });
}

template <class D, class T>
void softmax_gradient(const D& cpu, const T* y, const T* dy, T* dx, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* p = y + t * width;
      const T* dp = dy + t * width;
      T* d = dx + t * width;
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t j = 0; j < width; ++j) dot += dp[j] * p[j];
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) d[j] = p[j] * (dp[j] - dot);
    }
  });
}

template void softmax(const Cpu&, const float*, float*, std::int64_t, std::int64_t);
template void softmax(const Cpu&, const double*, double*, std::int64_t, std::int64_t);
template void softmax_gradient(const Cpu&, const float*, const float*, float*, std::int64_t, std::int64_t);
template void softmax_gradient(const Cpu&, const double*, const double*, double*, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
