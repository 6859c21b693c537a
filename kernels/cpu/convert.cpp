#include "kernels/convert.h"

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class From, class To>
void convert(const D& cpu, const From* x, To* y, std::int64_t n) {
  parallel_for(cpu, n, 1 << 15, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = as<To>(x[i]);
  });
}

#define LIMBECK_INSTANTIATE(From)                                        \
  template void convert(const Cpu&, const From*, float*, std::int64_t);  \
  template void convert(const Cpu&, const From*, double*, std::int64_t); \
  template void convert(const Cpu&, const From*, bf16*, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
