// What a row's sums say of its loss and gradient (kernels/sparse_targets.h), alike on every device. Real is double.
#pragma once

#include <cmath>

#include "kernels/distillation.h"
#include "kernels/sparse_targets.h"

namespace limbeck::kernels {

/// The student's probability of tokens that are not kept, of which no logarithm is infinite.
template <class Real>
constexpr Real rest_share(const Real* sum) {
  const Real share = sum[SparseRest] / (sum[SparseRest] + sum[SparseKept]);
  return share > Real(1e-40) ? share : Real(1e-40);
}

/// `sum`: the four of a temperature. `rest`: of the teacher, as SparseSide has it.
template <class Real>
constexpr Real sparse_kl(SparseKind kind, const Real* sum, Real rest) {
  const Real log_all = std::log(sum[SparseRest] + sum[SparseKept]);
  if (kind == SparseKind::Sampled) return sum[SparseDifference] + sum[SparseMass] * log_all - rest;
  if (kind == SparseKind::Renormalised)
    return sum[SparseDifference] / sum[SparseMass] - std::log(sum[SparseMass]) + std::log(sum[SparseKept]);
  const Real of_kept = sum[SparseDifference] + sum[SparseMass] * log_all;
  const Real mass = std::exp(rest);
  return mass > 0 ? of_kept + mass * (rest - std::log(rest_share(sum))) : of_kept;
}

/// The gradient at a temperature: of a kept token `student` exp(z / T) - `teacher` p, of others `others` exp(z / T).
template <class Real>
struct SparseFactors {
  Real student, teacher, others;
};
template <class Real>
constexpr SparseFactors<Real> sparse_factors(SparseKind kind, const Real* sum, Real rest) {
  const Real inverse = 1 / (sum[SparseRest] + sum[SparseKept]);
  if (kind == SparseKind::Renormalised) return {1 / sum[SparseKept], 1 / sum[SparseMass], 0};
  if (kind == SparseKind::Sampled) return {inverse * sum[SparseMass], 1, inverse * sum[SparseMass]};
  return {inverse, 1, inverse * (1 - std::exp(rest) / rest_share(sum))};
}

/// min of the two sides' probabilities of all tokens that are not kept.
template <class Real>
constexpr Real least_rest(const Real* sum, Real rest) {
  const Real p = std::exp(rest), q = sum[SparseRest] / (sum[SparseRest] + sum[SparseKept]);
  return p < q ? p : q;
}

struct SparseLossRow {
  double columns[num_loss_columns];
  double objective;
  double ce_square, divergence_square;
};

/// What the square of the target's gradient is more than that of another column: (ce (q - 1))^2 - (ce q)^2.
template <class Real>
constexpr double sparse_target_square(double ce, const Real* sum) {
  return ce * ce * (1 - 2 * std::exp(sum[SparseTarget]) / (sum[SparseRest] + sum[SparseKept]));
}

template <class T>
constexpr SparseLossRow sparse_loss_row(const SparseRows<T>& rows, std::int64_t i, const double* sum, double index,
                                        const double* parts, double alpha) {
  SparseLossRow row{};
  const double ce = std::log(sum[SparseRest] + sum[SparseKept]) - sum[SparseTarget];
  const double t = rows.logits.temperature;
  row.objective = alpha * ce;
  row.ce_square = parts[CeSquare];
  row.divergence_square = parts[DivergenceSquare];
  if (alpha != 1)
    row.objective +=
        (1 - alpha) * t * t * sparse_kl(rows.kind, sum + SparseTempered, static_cast<double>(rows.tempered.rest[i]));
  const bool draws = rows.kind == SparseKind::Sampled;
  const auto rest = static_cast<double>(rows.plain.rest[i]);
  row.columns[LossTokens] = 1;
  row.columns[LossCe] = ce;
  row.columns[LossTeacherCe] = static_cast<double>(rows.target_loss[i]);
  row.columns[LossKl] = sparse_kl(draws ? SparseKind::Sampled : SparseKind::Ghost, sum, rest);
  row.columns[LossAgreement] = index == static_cast<double>(rows.likeliest[i]) ? 1 : 0;
  row.columns[LossSumMin] = draws ? 0 : parts[SumMin] + least_rest(sum, rest);
  return row;
}

}  // namespace limbeck::kernels
