#include "kernels/sums.h"

#include "kernels/cuda/ordered_sum.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct Terms {
  const T* x;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto v = load<N, Whole>(x + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v[j]);
    return sum;
  }
};

template <class T>
struct Squares {
  const T* x;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto v = load<N, Whole>(x + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v[j]) * static_cast<double>(v[j]);
    return sum;
  }
};

template <class T>
struct SquaredDifferences {
  const T* x;
  const T* y;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto a = load<N, Whole>(x + i, count), b = load<N, Whole>(y + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j) {
      const double difference = static_cast<double>(a[j]) - static_cast<double>(b[j]);
      sum += difference * difference;
    }
    return sum;
  }
};

}  // namespace

template <class D, class T>
void sum(const D& cuda, const T* x, std::int64_t n, double* sum) {
  Scratch scratch(cuda);
  ordered_sum<vector_length<T>>(cuda, scratch, n, Terms<T>{x}, StoreTotal{sum}, x);
}

template <class D, class T>
void sum_of_squares(const D& cuda, const T* x, std::int64_t n, double* sum) {
  Scratch scratch(cuda);
  ordered_sum<vector_length<T>>(cuda, scratch, n, Squares<T>{x}, StoreTotal{sum}, x);
}

template <class D, class T>
void sum_of_squared_differences(const D& cuda, const T* x, const T* y, std::int64_t n, double* sum) {
  Scratch scratch(cuda);
  ordered_sum<vector_length<T>>(cuda, scratch, n, SquaredDifferences<T>{x, y}, StoreTotal{sum}, x, y);
}

#define LIMBECK_INSTANTIATE(T)                                                \
  template void sum(const Cuda&, const T*, std::int64_t, double*);            \
  template void sum_of_squares(const Cuda&, const T*, std::int64_t, double*); \
  template void sum_of_squared_differences(const Cuda&, const T*, const T*, std::int64_t, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
