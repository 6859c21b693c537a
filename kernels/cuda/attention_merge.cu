#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct MergedRow {
  const T* more;
  const Acc<T>* more_logsumexp;
  Acc<T>* out;
  Acc<T>* logsumexp;
  std::int64_t width;
  __device__ void run(std::int64_t row, int lane) const {
    using A = Acc<T>;
    const A own = logsumexp[row], other = more_logsumexp[row], largest = own > other ? own : other;
    if (largest == -std::numeric_limits<A>::infinity()) return;
    const A here = std::exp(own - largest), there = std::exp(other - largest);
    const A sum = here + there, kept = here / sum, added = there / sum;
    __syncwarp();  // all have read it
    if (lane == 0) logsumexp[row] = largest + std::log(sum);
    for (std::int64_t c = lane; c < width; c += warp_size) {
      A& to = out[row * width + c];
      to = kept * to + added * as<A>(more[row * width + c]);
    }
  }
};

}  // namespace

template <class D, class T>
void attention_merge(const D& cuda, const T* more, const Acc<T>* more_logsumexp, Acc<T>* out, Acc<T>* logsumexp,
                     std::int64_t rows, std::int64_t value_width) {
  for_each_row(cuda, rows, MergedRow<T>{more, more_logsumexp, out, logsumexp, value_width});
}

#define LIMBECK_INSTANTIATE(T) \
  template void attention_merge(const Cuda&, const T*, const Acc<T>*, Acc<T>*, Acc<T>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
