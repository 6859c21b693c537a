#include "kernels/heads.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain(std::int64_t heads, std::int64_t width) { return 1 + (1 << 14) / (heads * width + 1); }

}  // namespace

template <class D, class T>
void copy_heads(const D& cpu, HeadParts<const T> from, HeadParts<T> to, std::int64_t tokens, std::int64_t heads,
                std::int64_t width) {
  parallel_for(cpu, tokens, grain(heads, width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t h = 0; h < heads; ++h)
        std::copy_n(from.x + t * from.token_step + h * from.head_step, width,
                    to.x + t * to.token_step + h * to.head_step);
  });
}

template <class D, class T>
void sum_heads(const D& cpu, HeadParts<const T> from, T* to, std::int64_t tokens, std::int64_t heads,
               std::int64_t width) {
  parallel_for(cpu, tokens, grain(heads, width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) {
        Acc<T> sum = 0;
        for (std::int64_t h = 0; h < heads; ++h)
          sum += as<Acc<T>>(from.x[t * from.token_step + h * from.head_step + c]);
        to[t * width + c] = as<T>(sum);
      }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                      \
  template void copy_heads(const Cpu&, HeadParts<const T>, HeadParts<T>, std::int64_t, std::int64_t, std::int64_t); \
  template void sum_heads(const Cpu&, HeadParts<const T>, T*, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
