#include "kernels/cosine.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void cosine_distance(const D& cpu, const T* x, const T* y, double* distance, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, 1 + (1 << 13) / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      double xy = 0, xx = 0, yy = 0;
#pragma omp simd reduction(+ : xy, xx, yy)
      for (std::int64_t i = t * width; i < (t + 1) * width; ++i) {
        const auto a = as<double>(x[i]), b = as<double>(y[i]);
        xy += a * b;
        xx += a * a;
        yy += b * b;
      }
      distance[t] = xx > 0 && yy > 0 ? 1 - xy / (std::sqrt(xx) * std::sqrt(yy)) : 1;
    }
  });
}

template void cosine_distance(const Cpu&, const float*, const float*, double*, std::int64_t, std::int64_t);
template void cosine_distance(const Cpu&, const double*, const double*, double*, std::int64_t, std::int64_t);
template void cosine_distance(const Cpu&, const bf16*, const bf16*, double*, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
