#include "kernels/sums.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/elementwise.cuh"
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

struct StoreClipFactor {
  double clip;
  double* factor;
  __device__ void operator()(double squares) const {
    const double norm = std::sqrt(squares);
    const bool is_finite = norm - norm == 0;
    *factor = !is_finite ? std::numeric_limits<double>::quiet_NaN() : clip > 0 && norm > clip ? clip / norm : 1;
  }
};

struct AddCounts {
  const std::int64_t* counts;
  double* sums;
  template <int N>
  __device__ void run(std::int64_t i) const {
    sums[i] += static_cast<double>(counts[i]);
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

template <class D>
void clip_factor(const D& cuda, const double* squares, std::int64_t n, double clip, double* factor) {
  gpu::launch(cuda, total_kernel<StoreClipFactor>, dim3(1), dim3(usual_threads), 0, squares, n,
              StoreClipFactor{clip, factor});
}

template <class D>
void add_counts(const D& cuda, const std::int64_t* counts, double* sums, std::int64_t n) {
  for_each_vector<1>(cuda, n, AddCounts{counts, sums}, counts, sums);
}

#define LIMBECK_INSTANTIATE(T)                                                \
  template void sum(const Cuda&, const T*, std::int64_t, double*);            \
  template void sum_of_squares(const Cuda&, const T*, std::int64_t, double*); \
  template void sum_of_squared_differences(const Cuda&, const T*, const T*, std::int64_t, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)
template void clip_factor(const Cuda&, const double*, std::int64_t, double, double*);
template void add_counts(const Cuda&, const std::int64_t*, double*, std::int64_t);

}  // namespace limbeck::kernels
