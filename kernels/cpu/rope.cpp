#include "kernels/rope.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void rope_table(const D& cpu, T* cos, T* sin, std::int64_t positions, std::int64_t half, const double* frequencies,
                double factor) {
  parallel_for(cpu, positions, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * frequencies[i];
        cos[p * half + i] = static_cast<T>(factor * std::cos(angle));
        sin[p * half + i] = static_cast<T>(factor * std::sin(angle));
      }
  });
}

template <class D, class T>
void rope(const D& cpu, RopeHeads<T> queries, RopeHeads<T> keys, const std::int32_t* row, const Acc<T>* cos,
          const Acc<T>* sin, int direction, std::int64_t tokens, std::int64_t turning) {
  const std::int64_t half = turning / 2;
  const std::int64_t width = (queries.heads + keys.heads) * turning;
  const auto sign = static_cast<Acc<T>>(direction);
  parallel_for(cpu, tokens, 1 + (1 << 14) / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const Acc<T>* c = cos + row[t] * half;
      const Acc<T>* s = sin + row[t] * half;
      for (const RopeHeads<T>& all : {queries, keys})
        for (std::int64_t h = 0; h < all.heads; ++h) {
          T* x = all.x + (t * all.heads + h) * (all.width > 0 ? all.width : turning) + all.first;
#pragma omp simd
          for (std::int64_t i = 0; i < half; ++i) {
            const auto low = as<Acc<T>>(x[i]);
            const auto high = as<Acc<T>>(x[i + half]);
            x[i] = as<T>(low * c[i] - sign * high * s[i]);
            x[i + half] = as<T>(high * c[i] + sign * low * s[i]);
          }
        }
    }
  });
}

template <class D>
void rope_rows(const D& cpu, const std::int32_t* position, const std::int32_t* context, std::int64_t limit,
               std::int64_t further, std::int32_t* row, std::int64_t tokens) {
  parallel_for(cpu, tokens, 1 << 14, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      row[t] = static_cast<std::int32_t>(position[t] + (context[t] > limit ? further : 0));
  });
}

template void rope_rows(const Cpu&, const std::int32_t*, const std::int32_t*, std::int64_t, std::int64_t, std::int32_t*,
                        std::int64_t);
template void rope_table(const Cpu&, float*, float*, std::int64_t, std::int64_t, const double*, double);
template void rope_table(const Cpu&, double*, double*, std::int64_t, std::int64_t, const double*, double);

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void rope(const Cpu&, RopeHeads<T>, RopeHeads<T>, const std::int32_t*, const Acc<T>*, const Acc<T>*, int, \
                     std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
