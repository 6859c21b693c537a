#include "kernels/normal.h"

#include <cmath>
#include <numbers>

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct NormalRows {
  PhiloxStream stream;
  double deviation;
  const std::int64_t* row_index;
  T* y;
  std::int64_t width;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const auto bits = stream.block(static_cast<std::uint64_t>(row_index[i / width] + i % width));
    // As PhiloxStream::normal, which the host alone has.
    const double radius = std::sqrt(-2 * std::log1p(-PhiloxStream::to_unit(bits[0], bits[1])));
    const double angle = 2 * std::numbers::pi * PhiloxStream::to_unit(bits[2], bits[3]);
    y[i] = static_cast<T>(deviation * (radius * std::cos(angle)));
  }
};

}  // namespace

template <class D, class T>
void normal_rows(const D& cuda, const PhiloxStream& stream, double deviation, const std::int64_t* row_index, T* y,
                 std::int64_t rows, std::int64_t width) {
  for_each_vector<1>(cuda, rows * width, NormalRows<T>{stream, deviation, row_index, y, width}, y);
}

template void normal_rows(const Cuda&, const PhiloxStream&, double, const std::int64_t*, float*, std::int64_t,
                          std::int64_t);
template void normal_rows(const Cuda&, const PhiloxStream&, double, const std::int64_t*, double*, std::int64_t,
                          std::int64_t);

}  // namespace limbeck::kernels
