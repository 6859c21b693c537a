#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class W, class T>
void embedding(const D& cpu, const std::int32_t* token, const W* table, T* y, std::int64_t tokens, std::int64_t width,
               std::int64_t first, std::int64_t rows) {
  parallel_for(cpu, tokens, 1 + (1 << 14) / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t index = token[t] - first;
      if (index < 0 || index >= rows) {
        std::fill_n(y + t * width, width, T{});
        continue;
      }
      const W* row = table + index * width;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) y[t * width + c] = as<T>(row[c]);
    }
  });
}

template <class D, class T>
void embedding_gradient(const D& cpu, const std::int32_t* token, const T* dy, bool add, Acc<T>* dtable,
                        std::int64_t tokens, std::int64_t width, std::int64_t first, std::int64_t rows) {
  if (!add)
    parallel_for(cpu, rows * width, 1 << 16,
                 [=](std::int64_t begin, std::int64_t end) { std::fill(dtable + begin, dtable + end, Acc<T>{0}); });
  // A thread owns columns, not tokens: no two write to one place, and each place adds in the order of the tokens.
  parallel_for(cpu, width, 32 + (1 << 14) / (tokens + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t index = token[t] - first;
      if (index < 0 || index >= rows) continue;
      Acc<T>* row = dtable + index * width;
      const T* from = dy + t * width;
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c) row[c] += as<Acc<T>>(from[c]);
    }
  });
}

#define LIMBECK_INSTANTIATE(W, T)                                                                                  \
  template void embedding(const Cpu&, const std::int32_t*, const W*, T*, std::int64_t, std::int64_t, std::int64_t, \
                          std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(float, bf16)
LIMBECK_INSTANTIATE(bf16, float)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(double, double)

#define LIMBECK_INSTANTIATE_GRADIENT(T)                                                                    \
  template void embedding_gradient(const Cpu&, const std::int32_t*, const T*, bool, Acc<T>*, std::int64_t, \
                                   std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE_GRADIENT(float)
LIMBECK_INSTANTIATE_GRADIENT(double)
LIMBECK_INSTANTIATE_GRADIENT(bf16)

}  // namespace limbeck::kernels
