#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void attention_merge(const D& cpu, const T* more, const Acc<T>* more_logsumexp, Acc<T>* out, Acc<T>* logsumexp,
                     std::int64_t rows, std::int64_t value_width) {
  using A = Acc<T>;
  parallel_for(cpu, rows, 64, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const A largest = std::max(logsumexp[row], more_logsumexp[row]);
      if (largest == -std::numeric_limits<A>::infinity()) continue;
      const A here = std::exp(logsumexp[row] - largest), there = std::exp(more_logsumexp[row] - largest);
      const A sum = here + there, kept = here / sum, added = there / sum;
      logsumexp[row] = largest + std::log(sum);
      A* to = out + row * value_width;
      const T* from = more + row * value_width;
#pragma omp simd
      for (std::int64_t c = 0; c < value_width; ++c) to[c] = kept * to[c] + added * as<A>(from[c]);
    }
  });
}

#define LIMBECK_INSTANTIATE(T) \
  template void attention_merge(const Cpu&, const T*, const Acc<T>*, Acc<T>*, Acc<T>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
