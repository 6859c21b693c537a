#include "kernels/heads.h"

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

/// Places of [tokens,heads,width].
template <class T>
struct CopyHeads {
  HeadParts<const T> from;
  HeadParts<T> to;
  std::int64_t heads, width;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const std::int64_t row = i / width, column = i % width, t = row / heads, h = row % heads;
    to.x[t * to.token_step + h * to.head_step + column] = from.x[t * from.token_step + h * from.head_step + column];
  }
};

/// Places of [tokens,width].
template <class T>
struct SumHeads {
  HeadParts<const T> from;
  T* to;
  std::int64_t heads, width;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const T* x = from.x + i / width * from.token_step + i % width;
    Acc<T> sum = 0;
    for (std::int64_t h = 0; h < heads; ++h) sum += as<Acc<T>>(x[h * from.head_step]);
    to[i] = rounded<T>(sum);
  }
};

}  // namespace

template <class D, class T>
void copy_heads(const D& cuda, HeadParts<const T> from, HeadParts<T> to, std::int64_t tokens, std::int64_t heads,
                std::int64_t width) {
  for_each_vector<1>(cuda, tokens * heads * width, CopyHeads<T>{from, to, heads, width}, to.x);
}

template <class D, class T>
void sum_heads(const D& cuda, HeadParts<const T> from, T* to, std::int64_t tokens, std::int64_t heads,
               std::int64_t width) {
  for_each_vector<1>(cuda, tokens * width, SumHeads<T>{from, to, heads, width}, to);
}

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void copy_heads(const Cuda&, HeadParts<const T>, HeadParts<T>, std::int64_t, std::int64_t, std::int64_t); \
  template void sum_heads(const Cuda&, HeadParts<const T>, T*, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
