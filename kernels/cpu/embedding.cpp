#include "kernels/embedding.h"

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class W, class T>
void embedding(const Cpu& cpu, const std::int32_t* token, const W* table, T* y, std::int64_t tokens, std::int64_t width,
               std::int64_t first, std::int64_t rows) {
  parallel_for(cpu, tokens, 1 + (1 << 14) / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t index = token[t] - first;
      if (index < 0 || index >= rows) {
        std::fill_n(y + t * width, width, T(0));
        continue;
      }
      const W* row = table + index * width;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) y[t * width + c] = static_cast<T>(row[c]);
    }
  });
}

template <class T>
void embedding_gradient(const Cpu& cpu, const std::int32_t* token, const T* dy, T* dtable, std::int64_t tokens,
                        std::int64_t width, std::int64_t first, std::int64_t rows) {
  // A thread owns columns, not tokens: no two write to one place, and each place adds in the order of the tokens.
  parallel_for(cpu, width, 32 + (1 << 14) / (tokens + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t index = token[t] - first;
      if (index < 0 || index >= rows) continue;
      T* row = dtable + index * width;
      const T* from = dy + t * width;
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c) row[c] += from[c];
    }
  });
}

template void embedding(const Cpu&, const std::int32_t*, const float*, float*, std::int64_t, std::int64_t, std::int64_t,
                        std::int64_t);
template void embedding(const Cpu&, const std::int32_t*, const double*, double*, std::int64_t, std::int64_t,
                        std::int64_t, std::int64_t);
template void embedding(const Cpu&, const std::int32_t*, const bf16*, float*, std::int64_t, std::int64_t, std::int64_t,
                        std::int64_t);
template void embedding_gradient(const Cpu&, const std::int32_t*, const float*, float*, std::int64_t, std::int64_t,
                                 std::int64_t, std::int64_t);
template void embedding_gradient(const Cpu&, const std::int32_t*, const double*, double*, std::int64_t, std::int64_t,
                                 std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
