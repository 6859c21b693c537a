#include "kernels/elementwise.h"

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class A, class B>
struct Add {
  const A* a;
  const B* b;
  A* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto sum = load<N>(a + i);
    const auto addend = load<N>(b + i);
    for (int j = 0; j < N; ++j) sum[j] += addend[j];
    store(y + i, sum);
  }
};

template <class T>
struct Scale {
  const T* x;
  Acc<T> factor;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto v = load<N>(x + i);
    for (int j = 0; j < N; ++j) v[j] *= factor;
    store(y + i, v);
  }
};

template <class T>
struct Fill {
  const T* value;
  double weight;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    Values<T, N> all;
    const double one = value == nullptr ? weight : weight * as<double>(*value);
    for (int j = 0; j < N; ++j) all[j] = rounded<T>(one);
    store(y + i, all);
  }
};

template <class T>
struct ScaledDifference {
  const T* a;
  const T* b;
  const T* factor;
  double weight;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const auto scale = as<Acc<T>>(weight * as<double>(*factor));
    auto difference = load<N>(a + i);
    const auto subtrahend = load<N>(b + i);
    for (int j = 0; j < N; ++j) difference[j] = scale * (difference[j] - subtrahend[j]);
    store(y + i, difference);
  }
};

template <class T>
struct SumOfParts {
  const T* parts;
  std::int64_t count, n;
  T* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    auto sum = load<N>(parts + i);
    for (std::int64_t p = 1; p < count; ++p) {
      const auto v = load<N>(parts + p * n + i);
      for (int j = 0; j < N; ++j) sum[j] += v[j];
    }
    store(y + i, sum);
  }
};

}  // namespace

template <class D, class B, class A>
void add_to(const D& cuda, const B* x, A* y, std::int64_t n) {
  add(cuda, y, x, y, n);
}

template <class D, class A, class B>
void add(const D& cuda, const A* a, const B* b, A* y, std::int64_t n) {
  for_each_vector<vector_length<A, B>>(cuda, n, Add<A, B>{a, b, y}, a, b, y);
}

template <class D, class T>
void scale(const D& cuda, const T* x, Acc<T> factor, T* y, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, Scale<T>{x, factor, y}, x, y);
}

template <class D, class T>
void fill(const D& cuda, const T* value, double weight, T* y, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, Fill<T>{value, weight, y}, y);
}

template <class D, class T>
void scaled_difference(const D& cuda, const T* a, const T* b, const T* factor, double weight, T* y, std::int64_t n) {
  for_each_vector<vector_length<T>>(cuda, n, ScaledDifference<T>{a, b, factor, weight, y}, a, b, y);
}

template <class D, class T>
void sum_of_parts(const D& cuda, const T* parts, std::int64_t count, T* y, std::int64_t n) {
  constexpr int N = vector_length<T>;
  const SumOfParts<T> sum{parts, count, n, y};
  if (n % N == 0)
    for_each_vector<N>(cuda, n, sum, parts, y);
  else
    for_each_vector<1>(cuda, n, sum, parts, y);
}

#define LIMBECK_INSTANTIATE(A, B)                                \
  template void add_to(const Cuda&, const B*, A*, std::int64_t); \
  template void add(const Cuda&, const A*, const B*, A*, std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

#define LIMBECK_INSTANTIATE_ALIKE(T)                                                                    \
  template void scale(const Cuda&, const T*, Acc<T>, T*, std::int64_t);                                 \
  template void fill(const Cuda&, const T*, double, T*, std::int64_t);                                  \
  template void scaled_difference(const Cuda&, const T*, const T*, const T*, double, T*, std::int64_t); \
  template void sum_of_parts(const Cuda&, const T*, std::int64_t, T*, std::int64_t);
LIMBECK_INSTANTIATE_ALIKE(float)
LIMBECK_INSTANTIATE_ALIKE(double)
LIMBECK_INSTANTIATE_ALIKE(bf16)

}  // namespace limbeck::kernels
