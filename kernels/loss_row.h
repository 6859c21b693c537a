// The losses of one token from the row results of its logits (kernels/distillation.h), alike on every device.
#pragma once

#include <cmath>

#include "kernels/distillation.h"

namespace limbeck::kernels {

struct LossRow {
  double columns[num_loss_columns];
  double objective;
  double ce_square, divergence_square;
};

/// What the square of the target's gradient is more than that of another column: (ce (q - 1))^2 - (ce q)^2.
template <class Real>
constexpr double target_square(double ce, const Real* sum) {
  return ce * ce * (1 - 2 * std::exp(sum[StudentTarget]) / sum[StudentSum]);
}

/// `sum` [num_logits_sums], `divergence` [num_divergence_sums], or null, and `parts` [num_gradient_sums] of whole rows.
/// Real is double.
template <class Real>
constexpr LossRow loss_row(const Real* sum, const Real* divergence, bool has_teacher, const LossTerms& terms,
                           double temperature, bool agrees, const Real* parts) {
  const double ce = std::log(sum[StudentSum]) - sum[StudentTarget];
  LossRow row{{1, ce, 0, 0, 0, 0}, terms.ce * ce, parts[CeSquare], parts[DivergenceSquare]};
  if (!has_teacher) return row;
  // sum p (log p - log q), with logits less their maxima: no large numbers cancel.
  const double kl = sum[Difference] / sum[TeacherSum] - std::log(sum[TeacherSum]) + std::log(sum[StudentSumShared]);
  const double tempered = sum[DifferenceTempered] / sum[TeacherSumTempered] - std::log(sum[TeacherSumTempered]) +
                          std::log(sum[StudentSumTempered]);
  if (terms.divergence != 0) {
    const double value = terms.needs_no_sums() ? tempered : divergence[DivergenceValue];
    row.objective += terms.divergence * temperature * temperature * value;
  }
  row.columns[LossTeacherCe] = is_lacking(sum[TeacherTarget]) ? 0 : std::log(sum[TeacherSum]) - sum[TeacherTarget];
  row.columns[LossKl] = kl;
  row.columns[LossAgreement] = agrees ? 1 : 0;
  row.columns[LossSumMin] = parts[SumMin];
  return row;
}

}  // namespace limbeck::kernels
