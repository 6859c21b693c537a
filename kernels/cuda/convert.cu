#include "kernels/convert.h"

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class From, class To>
struct Convert {
  const From* x;
  To* y;
  template <int N>
  __device__ void run(std::int64_t i) const {
    store(y + i, load<N>(x + i));
  }
};

}  // namespace

template <class D, class From, class To>
void convert(const D& cuda, const From* x, To* y, std::int64_t n) {
  for_each_vector<vector_length<From, To>>(cuda, n, Convert<From, To>{x, y}, x, y);
}

#define LIMBECK_INSTANTIATE(From)                                         \
  template void convert(const Cuda&, const From*, float*, std::int64_t);  \
  template void convert(const Cuda&, const From*, double*, std::int64_t); \
  template void convert(const Cuda&, const From*, bf16*, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
