// The router's auxiliary losses. Sums are in double. T is float or double. Derivations: docs/gradients.md.
//
//     count_assignments(cpu, selection, sequence, counts, {T, E, K, S});
//     balance_loss(cpu, probabilities, counts, sequence, loss, {T, E, K, S}, weight);
//     z_loss(cpu, logits, logsumexp, loss, T, E, weight);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

struct BalanceShape {
  std::int64_t tokens, experts, selected;
  std::int64_t sequences = 1;  // S
};

/// counts [S,E]: assignments of the tokens of sequence s, by `sequence` [tokens] of numbers below S, to expert e.
/// Without a `sequence` (null) all are of the first. Of a sequence that is cut over ranks the sum over them counts.
template <class D, class T>
void count_assignments(const D& device, const std::int32_t* selection, const std::int32_t* sequence, T* counts,
                       const BalanceShape& shape);

/// loss[0] = weight Σ_s E Σ_e f[s,e] P[s,e] over the tokens here: f the share of a sequence's assignments that went to
/// e, P the sum of its tokens' probabilities over how many it has, both by the counts of the whole sequence (Fedus et
/// al. 2021, "Switch transformers", per sequence as in DeepSeek-V2).
template <class D, class T>
void balance_loss(const D& device, const T* probabilities, const T* counts, const std::int32_t* sequence, T* loss,
                  const BalanceShape& shape, double weight);

/// dp[t,e] = dloss[0] weight E f[s,e] / T_s; f is a constant. Overwrites.
template <class D, class T>
void balance_loss_gradient(const D& device, const T* counts, const std::int32_t* sequence, const T* dloss,
                           T* dprobabilities, const BalanceShape& shape, double weight);

/// The balance loss over more sequences than are here: loss[0] = weight E Σ_e f[e] Σ_t p[t,e], f = counts / Σ counts of
/// all of them.
template <class D, class T>
void shared_balance_loss(const D& device, const T* probabilities, const T* counts, T* loss, const BalanceShape& shape,
                         double weight);

/// dp[t,e] = dloss[0] weight E f[e]; f is a constant. Overwrites.
template <class D, class T>
void shared_balance_loss_gradient(const D& device, const T* counts, const T* dloss, T* dprobabilities,
                                  const BalanceShape& shape, double weight);

/// squares [tokens]: of each the square of the length of the balance loss's gradient with respect to logits whose
/// softmax the probabilities are, Σ_e (p[e] (g[e] - Σ_j g[j] p[j]))², g[e] = weight E f[s,e] / T_s; without a
/// `sequence` (null) of the loss over more sequences than are here, g[e] = weight E f[e].
template <class D, class T>
void balance_loss_squares(const D& device, const T* probabilities, const T* counts, const std::int32_t* sequence,
                          double* squares, const BalanceShape& shape, double weight);

/// loss[0] = weight Σ_t logsumexp(z[t])² (Zoph et al. 2022, "ST-MoE"); keeps the logsumexp [rows]. width > 0.
template <class D, class T>
void z_loss(const D& device, const T* z, T* logsumexp, T* loss, std::int64_t rows, std::int64_t width, double weight);

/// dz[t,e] = 2 dloss[0] weight logsumexp[t] softmax(z[t])[e]. Overwrites.
template <class D, class T>
void z_loss_gradient(const D& device, const T* z, const T* logsumexp, const T* dloss, T* dz, std::int64_t rows,
                     std::int64_t width, double weight);

/// squares [rows]: of each likewise of z_loss's with respect to z, Σ_e (2 weight logsumexp[t] softmax(z[t])[e])².
template <class D, class T>
void z_loss_squares(const D& device, const T* z, const T* logsumexp, double* squares, std::int64_t rows,
                    std::int64_t width, double weight);

}  // namespace limbeck::kernels
