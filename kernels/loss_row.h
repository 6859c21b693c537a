// The losses of one token from the row results of its logits (kernels/distillation.h), alike on every device.
#pragma once

#include <cmath>

#include "kernels/distillation.h"

namespace limbeck::kernels {

struct LossRow {
  double columns[num_loss_columns];
  double objective;
};

/// `sum` [num_logits_sums] and `divergence` [num_divergence_sums], or null, of whole rows. Real is double.
template <class Real>
constexpr LossRow loss_row(const Real* sum, const Real* divergence, bool has_teacher, const LossTerms& terms,
                           double temperature, bool agrees, double sum_min) {
  const double ce = std::log(sum[StudentSum]) - sum[StudentTarget];
  LossRow row{{1, ce, 0, 0, 0, 0}, terms.ce * ce};
  if (!has_teacher) return row;
  // sum p (log p - log q), with logits less their maxima: no large numbers cancel.
  const double kl = sum[Difference] / sum[TeacherSum] - std::log(sum[TeacherSum]) + std::log(sum[StudentSum]);
  const double tempered = sum[DifferenceTempered] / sum[TeacherSumTempered] - std::log(sum[TeacherSumTempered]) +
                          std::log(sum[StudentSumTempered]);
  if (terms.divergence != 0) {
    const double value = terms.needs_no_sums() ? tempered : divergence[DivergenceValue];
    row.objective += terms.divergence * temperature * temperature * value;
  }
  row.columns[LossTeacherCe] = std::log(sum[TeacherSum]) - sum[TeacherTarget];
  row.columns[LossKl] = kl;
  row.columns[LossAgreement] = agrees ? 1 : 0;
  row.columns[LossSumMin] = sum_min;
  return row;
}

}  // namespace limbeck::kernels
