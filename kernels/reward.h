// A reward head: of each response of a pair a number, w · x of its last token x, and what pairs of a preferred and
// another response lose by it (Bradley and Terry 1952; docs/gradients.md).
//
//     response_rewards(cpu, x, weight, document, offsets, last, rewards, n, C);
//     reward_pairs(cpu, rewards, n, center, per_pair, losses, slopes, of_pairs);
//     reward_input_gradient(cpu, weight, last, slopes, dloss, dx, n, C);
//     reward_weight_gradient(cpu, x, last, slopes, dloss, /*add=*/true, dweight, n, C);
//
// X is float, double or bf16; sums are of double, each result is rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/preference.h"

namespace limbeck::kernels {

/// Sequence i, tokens [offsets[i], offsets[i+1]), is a pair: its document 0 is the chosen response, document 1 the
/// rejected one, each behind its prompt. last [n,2]: the rows of x [T,C] where they end, -1 of one without a token, and
/// rewards [n,2], w · x there, or 0.
template <class D, class X>
void response_rewards(const D& device, const X* x, const Acc<X>* weight, const std::int32_t* document,
                      const std::int64_t* offsets, std::int64_t* last, double* rewards, std::int64_t n,
                      std::int64_t width);

/// A pair's row from its rewards a and b, of which preference_row has all but a term of the loss, center (a + b)^2; and
/// scale times what the loss gains by each reward. Alike on every device.
template <class Real>
constexpr void reward_row(Real chosen, Real rejected, double center, Real scale, Real* slopes, Real* row) {
  const Real weight = preference_row(chosen, rejected, 1, row), sum = chosen + rejected;
  row[PreferenceLoss] += center * sum * sum;
  slopes[0] = scale * (2 * center * sum - weight);
  slopes[1] = scale * (2 * center * sum + weight);
}

/// Of rewards [n,2]: of_pairs [n,num_preference_columns], and times scale [1] the losses [n] and slopes [n,2].
template <class D>
void reward_pairs(const D& device, const double* rewards, std::int64_t n, double center, const double* scale,
                  double* losses, double* slopes, double* of_pairs);

/// dx[last[i]] = slopes[i] dloss [1] w. Other rows are left.
template <class D, class X>
void reward_input_gradient(const D& device, const Acc<X>* weight, const std::int64_t* last, const double* slopes,
                           const Acc<X>* dloss, X* dx, std::int64_t n, std::int64_t width);

/// dweight = dloss times the sum of slopes[i] x[last[i]] over the responses, in their order. `add` adds to it.
template <class D, class X>
void reward_weight_gradient(const D& device, const X* x, const std::int64_t* last, const double* slopes,
                            const Acc<X>* dloss, bool add, Acc<X>* dweight, std::int64_t n, std::int64_t width);

}  // namespace limbeck::kernels
