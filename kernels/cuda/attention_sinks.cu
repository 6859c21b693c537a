#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/column_sums.cuh"

namespace limbeck::kernels {
namespace {

/// parts [., heads]: of some queries each, whose rows the block's warps take by turns. Block (h, p): head h, part p.
template <class T>
__global__ void __launch_bounds__(attention_threads)
    sink_parts_kernel(const AttentionProblem p, const Acc<T>* sinks, const T* out, const Acc<T>* logsumexp,
                      const T* dout, std::int64_t rows_a_part, Acc<T>* parts) {
  using A = Acc<T>;
  const std::int64_t head = blockIdx.x, first = blockIdx.y * rows_a_part;
  const std::int64_t end = p.num_queries < first + rows_a_part ? p.num_queries : first + rows_a_part;
  A sum = 0;
  for (std::int64_t i = first + warp_index(); i < end; i += attention_warps) {
    const std::int64_t row = i * p.num_heads + head;
    A mean = 0;
    for (std::int64_t c = lane_index(); c < p.value_width; c += 32)
      mean += as<A>(dout[row * p.value_width + c]) * as<A>(out[row * p.value_width + c]);
    sum -= std::exp(sinks[head] - logsumexp[row]) * warp_sum(mean);
  }
  sum = block_sum(lane_index() == 0 ? sum : A{0});
  if (threadIdx.x == 0) parts[blockIdx.y * p.num_heads + head] = sum;
}

}  // namespace

template <class D, class T>
void attention_sink_gradient(const D& cuda, const AttentionProblem& p, const Acc<T>* sinks, const T* out,
                             const Acc<T>* logsumexp, const T* dout, bool add, Acc<T>* dsinks) {
  check_extents(p);
  if (p.num_heads == 0) return;
  const std::int64_t num_parts = parts_of_rows(p.num_queries);
  auto* parts = Scratch(cuda).take<Acc<T>>(num_parts * p.num_heads);
  if (num_parts > 0)
    gpu::launch(cuda, sink_parts_kernel<T>, dim3(static_cast<unsigned>(p.num_heads), static_cast<unsigned>(num_parts)),
                dim3(attention_threads), 0, p, sinks, out, logsumexp, dout, rows_of_part(p.num_queries), parts);
  sum_parts(cuda, parts, num_parts, p.num_heads, add, dsinks, p.num_heads);
}

#define LIMBECK_INSTANTIATE(T)                                                                                        \
  template void attention_sink_gradient(const Cuda&, const AttentionProblem&, const Acc<T>*, const T*, const Acc<T>*, \
                                        const T*, bool, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
