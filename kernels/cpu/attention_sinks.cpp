#include <algorithm>

#include "kernels/attention.h"
#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"

namespace limbeck::kernels {

template <class D, class T>
void attention_sink_gradient(const D& cpu, const AttentionProblem& p, const Acc<T>* sinks, const T* out,
                             const Acc<T>* logsumexp, const T* dout, bool add, Acc<T>* dsinks) {
  using A = Acc<T>;
  const std::int64_t queries = p.query_offsets[p.num_segments];
  parallel_for(cpu, p.num_heads, 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) {
      A sum = 0;
      for (std::int64_t block = 0; block < queries; block += summed_rows) {
        A part = 0;
        for (std::int64_t i = block; i < std::min(queries, block + summed_rows); ++i) {
          const std::int64_t row = i * p.num_heads + head;
          const T *o = out + row * p.value_width, *d = dout + row * p.value_width;
          A mean = 0;
#pragma omp simd reduction(+ : mean)
          for (std::int64_t c = 0; c < p.value_width; ++c) mean += as<A>(o[c]) * as<A>(d[c]);
          part -= exponential(sinks[head] - logsumexp[row]) * mean;
        }
        sum += part;
      }
      dsinks[head] = add ? dsinks[head] + sum : sum;
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void attention_sink_gradient(const Cpu&, const AttentionProblem&, const Acc<T>*, const T*, const Acc<T>*, \
                                        const T*, bool, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
