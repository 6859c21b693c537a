#include "kernels/match_routing.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D>
void load_weights(const D& cpu, const std::int32_t* selection, const double* counts, const std::int32_t* sequence,
                  double* weights, const BalanceShape& shape) {
  std::vector<double> factors;  // of sequences: tokens / experts that they use
  for (std::int64_t s = 0; s < shape.sequences; ++s) {
    const double* load = counts + s * shape.experts;
    const double all = std::accumulate(load, load + shape.experts, 0.0);
    const auto used = std::count_if(load, load + shape.experts, [](double n) { return n > 0; });
    factors.push_back(all / static_cast<double>(shape.selected) / static_cast<double>(used));
  }
  parallel_for(cpu, shape.tokens, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t of = sequence[t];
      double sum = 0;
      for (std::int64_t k = 0; k < shape.selected; ++k)
        sum += 1 / counts[of * shape.experts + selection[t * shape.selected + k]];
      weights[t] = factors[static_cast<std::size_t>(of)] * sum;
    }
  });
}

template <class D, class T>
void routing_distance(const D& cpu, const T* q, const T* p, const std::int32_t* targets, const double* token_weights,
                      TokenWeight token_weight, double* distance, double* squares, std::int64_t rows,
                      std::int64_t experts) {
  const double weight = token_weight.get();
  parallel_for(cpu, rows, 64, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      distance[t] = squares[t] = 0;
      if (targets[t] < 0) continue;
      double kl = 0, square = 0;
      for (std::int64_t i = t * experts; i < (t + 1) * experts; ++i) {
        kl += routing_term(p[i], q[i]);
        square += routing_square(p[i], q[i]);
      }
      const double of_row = weight * (token_weights != nullptr ? token_weights[t] : 1);
      distance[t] = of_row * kl;
      squares[t] = of_row * of_row * square;
    }
  });
}

template <class D, class T>
void routing_distance_gradient(const D& cpu, const T* q, const T* p, const std::int32_t* targets,
                               const double* token_weights, TokenWeight token_weight, const T* dloss, T* dq,
                               std::int64_t rows, std::int64_t experts) {
  const double weight = token_weight.get() * static_cast<double>(*dloss);
  parallel_for(cpu, rows, 64, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const double of_row = targets[t] < 0 ? 0 : weight * (token_weights != nullptr ? token_weights[t] : 1);
      for (std::int64_t i = t * experts; i < (t + 1) * experts; ++i)
        dq[i] = static_cast<T>(-of_row * static_cast<double>(p[i]) / static_cast<double>(positive(q[i])));
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                    \
  template void routing_distance(const Cpu&, const T*, const T*, const std::int32_t*, const double*, TokenWeight, \
                                 double*, double*, std::int64_t, std::int64_t);                                   \
  template void routing_distance_gradient(const Cpu&, const T*, const T*, const std::int32_t*, const double*,     \
                                          TokenWeight, const T*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

template void load_weights(const Cpu&, const std::int32_t*, const double*, const std::int32_t*, double*,
                           const BalanceShape&);

}  // namespace limbeck::kernels
