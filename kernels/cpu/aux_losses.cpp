#include "kernels/aux_losses.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

/// Of each sequence and expert: weight E f[s,e] / T_s.
template <class T>
std::vector<double> weights_of_sequences(const T* counts, const BalanceShape& shape, double weight) {
  std::vector<double> weights(counts, counts + shape.sequences * shape.experts);
  for (auto row = weights.begin(); row != weights.end(); row += shape.experts) {
    const double all = std::accumulate(row, row + shape.experts, 0.0),
                 tokens = all / static_cast<double>(shape.selected);
    const double factor = all > 0 ? weight * static_cast<double>(shape.experts) / (all * tokens) : 0;
    std::for_each(row, row + shape.experts, [=](double& n) { n *= factor; });
  }
  return weights;
}

/// weight E f[e]
template <class T>
std::vector<double> weighted_shares(const T* counts, const BalanceShape& shape, double weight) {
  std::vector<double> share(counts, counts + shape.experts);
  const double all = std::accumulate(share.begin(), share.end(), 0.0);
  for (double& f : share) f = all > 0 ? weight * static_cast<double>(shape.experts) * f / all : 0;
  return share;
}

}  // namespace

template <class D, class T>
void count_assignments(const D&, const std::int32_t* selection, const std::int32_t* sequence, T* counts,
                       const BalanceShape& shape) {
  std::fill_n(counts, shape.sequences * shape.experts, T{0});
  for (std::int64_t t = 0; t < shape.tokens; ++t) {
    T* of_sequence = counts + (sequence != nullptr ? sequence[t] : 0) * shape.experts;
    for (std::int64_t k = 0; k < shape.selected; ++k) of_sequence[selection[t * shape.selected + k]] += 1;
  }
}

template <class D, class T>
void balance_loss(const D&, const T* probabilities, const T* counts, const std::int32_t* sequence, T* loss,
                  const BalanceShape& shape, double weight) {
  const std::vector<double> weights = weights_of_sequences(counts, shape, weight);
  double sum = 0;
  for (std::int64_t t = 0; t < shape.tokens; ++t) {
    const double* of_token = weights.data() + sequence[t] * shape.experts;
    for (std::int64_t e = 0; e < shape.experts; ++e) sum += of_token[e] * probabilities[t * shape.experts + e];
  }
  loss[0] = static_cast<T>(sum);
}

template <class D, class T>
void balance_loss_gradient(const D&, const T* counts, const std::int32_t* sequence, const T* dloss, T* dprobabilities,
                           const BalanceShape& shape, double weight) {
  const std::vector<double> weights = weights_of_sequences(counts, shape, weight * static_cast<double>(dloss[0]));
  for (std::int64_t t = 0; t < shape.tokens; ++t) {
    const double* of_token = weights.data() + sequence[t] * shape.experts;
    for (std::int64_t e = 0; e < shape.experts; ++e)
      dprobabilities[t * shape.experts + e] = static_cast<T>(of_token[e]);
  }
}

template <class D, class T>
void shared_balance_loss(const D&, const T* probabilities, const T* counts, T* loss, const BalanceShape& shape,
                         double weight) {
  const std::vector<double> share = weighted_shares(counts, shape, weight);
  double sum = 0;
  for (std::int64_t t = 0; t < shape.tokens; ++t)
    for (std::int64_t e = 0; e < shape.experts; ++e) sum += share[e] * probabilities[t * shape.experts + e];
  loss[0] = static_cast<T>(sum);
}

template <class D, class T>
void shared_balance_loss_gradient(const D&, const T* counts, const T* dloss, T* dprobabilities,
                                  const BalanceShape& shape, double weight) {
  const std::vector<double> share = weighted_shares(counts, shape, weight);
  for (std::int64_t t = 0; t < shape.tokens; ++t)
    for (std::int64_t e = 0; e < shape.experts; ++e)
      dprobabilities[t * shape.experts + e] = static_cast<T>(dloss[0] * share[e]);
}

template <class D, class T>
void balance_loss_squares(const D& cpu, const T* probabilities, const T* counts, const std::int32_t* sequence,
                          double* squares, const BalanceShape& shape, double weight) {
  const std::vector<double> weights =
      sequence != nullptr ? weights_of_sequences(counts, shape, weight) : weighted_shares(counts, shape, weight);
  parallel_for(cpu, shape.tokens, 128, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const double* g = weights.data() + (sequence != nullptr ? sequence[t] : 0) * shape.experts;
      const T* p = probabilities + t * shape.experts;
      double mean = 0, square = 0;
      for (std::int64_t e = 0; e < shape.experts; ++e) mean += g[e] * static_cast<double>(p[e]);
      for (std::int64_t e = 0; e < shape.experts; ++e) {
        const double dz = static_cast<double>(p[e]) * (g[e] - mean);
        square += dz * dz;
      }
      squares[t] = square;
    }
  });
}

template <class D, class T>
void z_loss(const D&, const T* z, T* logsumexp, T* loss, std::int64_t rows, std::int64_t width, double weight) {
  double squares = 0;
  for (std::int64_t t = 0; t < rows; ++t) {
    const T* zt = z + t * width;
    const T largest = *std::max_element(zt, zt + width);
    T sum = 0;
    for (std::int64_t e = 0; e < width; ++e) sum += std::exp(zt[e] - largest);
    logsumexp[t] = largest + std::log(sum);
    squares += static_cast<double>(logsumexp[t]) * logsumexp[t];
  }
  loss[0] = static_cast<T>(weight * squares);
}

template <class D, class T>
void z_loss_gradient(const D& cpu, const T* z, const T* logsumexp, const T* dloss, T* dz, std::int64_t rows,
                     std::int64_t width, double weight) {
  const T factor = 2 * dloss[0] * static_cast<T>(weight);
  parallel_for(cpu, rows, 128, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t i = t * width; i < (t + 1) * width; ++i)
        dz[i] = factor * logsumexp[t] * std::exp(z[i] - logsumexp[t]);
  });
}

template <class D, class T>
void z_loss_squares(const D& cpu, const T* z, const T* logsumexp, double* squares, std::int64_t rows,
                    std::int64_t width, double weight) {
  parallel_for(cpu, rows, 128, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      double square = 0;
      for (std::int64_t i = t * width; i < (t + 1) * width; ++i) {
        const auto p = static_cast<double>(std::exp(z[i] - logsumexp[t]));
        square += p * p;
      }
      const double factor = 2 * weight * static_cast<double>(logsumexp[t]);
      squares[t] = factor * factor * square;
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                      \
  template void count_assignments(const Cpu&, const std::int32_t*, const std::int32_t*, T*, const BalanceShape&);   \
  template void balance_loss(const Cpu&, const T*, const T*, const std::int32_t*, T*, const BalanceShape&, double); \
  template void balance_loss_gradient(const Cpu&, const T*, const std::int32_t*, const T*, T*, const BalanceShape&, \
                                      double);                                                                      \
  template void shared_balance_loss(const Cpu&, const T*, const T*, T*, const BalanceShape&, double);               \
  template void shared_balance_loss_gradient(const Cpu&, const T*, const T*, T*, const BalanceShape&, double);      \
  template void balance_loss_squares(const Cpu&, const T*, const T*, const std::int32_t*, double*,                  \
                                     const BalanceShape&, double);                                                  \
  template void z_loss(const Cpu&, const T*, T*, T*, std::int64_t, std::int64_t, double);                           \
  template void z_loss_gradient(const Cpu&, const T*, const T*, const T*, T*, std::int64_t, std::int64_t, double);  \
  template void z_loss_squares(const Cpu&, const T*, const T*, double*, std::int64_t, std::int64_t, double);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
