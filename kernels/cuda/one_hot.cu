#include "kernels/one_hot.h"

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct OneHot {
  const std::int32_t* index;
  T value;
  T* y;
  std::int64_t columns;
  std::int64_t first;
  __device__ void run(std::int64_t row, int lane) const {
    const std::int64_t hot = index[row] - first;
    for (std::int64_t c = lane; c < columns; c += warp_size) y[row * columns + c] = c == hot ? value : T(0);
  }
};

}  // namespace

template <class D, class T>
void one_hot(const D& cuda, const std::int32_t* index, T value, T* y, std::int64_t rows, std::int64_t columns,
             std::int64_t first) {
  for_each_row(cuda, rows, OneHot<T>{index, value, y, columns, first});
}

template void one_hot(const Cuda&, const std::int32_t*, float, float*, std::int64_t, std::int64_t, std::int64_t);
template void one_hot(const Cuda&, const std::int32_t*, double, double*, std::int64_t, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
