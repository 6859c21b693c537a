#include "kernels/dropout.h"

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct Dropout {
  const T* x;
  const std::int64_t* global_index;
  T* y;
  std::int64_t width;
  double probability;
  Acc<T> scale;
  PhiloxStream stream;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const auto place = static_cast<std::uint64_t>(global_index[i / width] * width + i % width);
    auto v = load<N>(x + i);
    for (int j = 0; j < N; ++j) v[j] = stream.uniform(place + j) >= probability ? scale * v[j] : Acc<T>{0};
    store(y + i, v);
  }
};

}  // namespace

template <class D, class T>
void dropout(const D& cuda, const T* x, const std::int64_t* global_index, T* y, std::int64_t rows, std::int64_t width,
             double probability, const PhiloxStream& stream) {
  constexpr int N = vector_length<T>;
  const Dropout<T> of_row{x, global_index, y, width, probability, static_cast<Acc<T>>(1 / (1 - probability)), stream};
  if (width % N == 0)
    for_each_vector<N>(cuda, rows * width, of_row, x, y);
  else
    for_each_vector<1>(cuda, rows * width, of_row, x, y);
}

#define LIMBECK_INSTANTIATE(T)                                                                              \
  template void dropout(const Cuda&, const T*, const std::int64_t*, T*, std::int64_t, std::int64_t, double, \
                        const PhiloxStream&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
