// Passes over a chunk of logits, row by row, for cross-entropy and distillation. Between the passes the row results
// may be reduced over the parts of a vocabulary.
//
//     logits_maxima(cpu, chunk, chunk.student, student_maxima, student_indices);    // then max over the parts
//     logits_sums(cpu, chunk, maxima..., sums);                                     // then sum over the parts
//     divergence_sums(cpu, chunk, terms, maxima..., sums, divergence);              // then sum over the parts
//     logits_gradient(cpu, chunk, maxima..., sums, ..., dlogits, parts);            // then sum over the parts
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/divergence.h"

namespace limbeck::kernels {

/// The logit of a token that the teacher has not. Its column is none of the divergence's, on both sides: there both
/// distributions are of the tokens that both models have, while cross-entropy is over all that the student has.
constexpr float lacking_logit = -1e30F;
template <class T>
constexpr bool is_lacking(T teacher_logit) {
  return teacher_logit < static_cast<T>(0.1F * lacking_logit);
}

/// n rows of `columns` logits of which the first num_valid count. T is float or double.
template <class T>
struct LogitsRows {
  std::int64_t n = 0;
  std::int64_t columns = 0;
  std::int64_t num_valid = 0;
  const T* student = nullptr;             // [n,columns]
  const T* teacher = nullptr;             // [n,columns] or null; may have lacking_logit in columns
  const std::int32_t* targets = nullptr;  // [n], -1: the row has no target and is skipped
  std::int64_t offset = 0;                // the target that column 0 is
  double temperature = 1;
};

/// Row results of logits_sums, [n,num_logits_sums]. z are logits less their row's maximum.
enum LogitsSum : std::int64_t {
  StudentSum,          // sum exp(zs)
  StudentSumShared,    // the same over the columns that the teacher does not lack, as below
  TeacherSum,          // sum exp(zt)
  Difference,          // sum exp(zt) (zt - zs)
  StudentSumTempered,  // the shared one, of z / temperature
  TeacherSumTempered,  // the same of z / temperature
  DifferenceTempered,  //
  StudentTarget,       // zs of the target, if it is in this part
  TeacherTarget,       // zt of the target
  num_logits_sums,
};

/// What a token's loss is: ce CE + divergence T^2 D(p_T, q_T).
struct LossTerms {
  double ce = 1;
  double divergence = 0;
  Divergence kind = Divergence::ForwardKl;
  double mix = 0;  // of the kinds that mix p and q

  /// Whether D and its gradient are of the row results of logits_sums alone.
  constexpr bool needs_no_sums() const { return divergence == 0 || kind == Divergence::ForwardKl; }
};

/// Row results of divergence_sums, [n,num_divergence_sums].
enum DivergenceSum : std::int64_t {
  DivergenceValue,  // D(p_T, q_T)
  DivergencePull,   // the sum of what DivergenceTerm calls the pull
  num_divergence_sums,
};

/// Row results of logits_gradient, [n,num_gradient_sums]; 0 without a teacher, the squares without a gradient too.
enum GradientSum : std::int64_t {
  SumMin,            // of min(p, q)
  CeSquare,          // of the square of the gradient of weight ce CE
  DivergenceSquare,  // of weight divergence T^2 D
  num_gradient_sums,
};

/// What a token's loss is weighted by: `value`, times *scale and times the row's own in `rows`, which are on the
/// device, unless those are null.
struct TokenWeight {
  double value = 1;
  const double* scale = nullptr;
  const double* rows = nullptr;                                            // of logits_gradient and add_losses alone
  constexpr TokenWeight(double factor, const double* on_device = nullptr,  // NOLINT(google-explicit-constructor)
                        const double* of_rows = nullptr)
      : value(factor), scale(on_device), rows(of_rows) {}
  constexpr double get() const { return scale == nullptr ? value : value * *scale; }
  constexpr double get(std::int64_t row) const { return rows == nullptr ? get() : get() * rows[row]; }
};

/// maximum [n] and the lowest column (plus offset) that has it [n] of logits [n,columns]; -infinity and the offset for
/// no columns.
template <class D, class T>
void logits_maxima(const D& device, const LogitsRows<T>& rows, const T* logits, double* maximum, double* index);

/// sums [n,num_logits_sums]; maxima are of whole rows. What needs a teacher is 0 without one.
template <class D, class T>
void logits_sums(const D& device, const LogitsRows<T>& rows, const double* student_max, const double* teacher_max,
                 double* sums);

/// divergence [n,num_divergence_sums] of rows with a teacher, from sums of whole rows; not for terms that need none.
template <class D, class T>
void divergence_sums(const D& device, const LogitsRows<T>& rows, const LossTerms& terms, const double* student_max,
                     const double* teacher_max, const double* sums, double* divergence);

/// dlogits [n,columns] = weight (ce (q - target) + divergence T (pull - q_T sum of pulls)), which is T (q_T - p_T) of
/// the forward KL; 0 in padding and skipped rows; dlogits may be null, or rows.student where G is T. `parts`
/// [n,num_gradient_sums]. `divergence` [n,num_divergence_sums] is of whole rows; null where the terms need none. G is
/// T, or bf16 with T float: each gradient is then computed in float and rounded once.
template <class D, class T, class G>
void logits_gradient(const D& device, const LogitsRows<T>& rows, const LossTerms& terms, const double* student_max,
                     const double* teacher_max, const double* sums, const double* divergence, TokenWeight weight,
                     G* dlogits, double* parts);

/// Where a maximum over the parts of a vocabulary is this part's own, indices[i] becomes -indices[i], else -infinity:
/// the maximum of those over the parts is the lowest index, negated. [n] each.
template <class D>
void negate_where_maximal(const D& device, const double* own, const double* of_all, double* indices, std::int64_t n);

/// What is known of a token that has a target; without a teacher the last four are 0.
enum LossColumn : std::int64_t {
  LossTokens,     // 1
  LossCe,         // -log q(target)
  LossTeacherCe,  // -log p(target); 0 where the teacher lacks it
  LossKl,         // KL(p || q) at temperature 1
  LossAgreement,  // 1 where both have the same maximum
  LossSumMin,     // the sum of min(p, q)
  num_loss_columns,
  LossObjective = num_loss_columns,  // of totals alone: weight (ce CE + divergence T^2 D)
  LossCeSquare,                      // of totals alone: GradientSum's
  LossDivergenceSquare,
  num_loss_totals,
};

/// Adds to totals [num_loss_totals], row by row in their order, what the rows with a target lose, from row results that
/// are of whole rows: indices [2,n] (student, teacher), sums [n,num_logits_sums], divergence [n,num_divergence_sums] or
/// null where the terms need none, parts [n,num_gradient_sums]. each [n,num_loss_columns], zeros in rows without a
/// target; may be null. Of `rows` n, targets, whether there is a teacher, and the temperature count.
template <class D, class T>
void add_losses(const D& device, const LogitsRows<T>& rows, const LossTerms& terms, const double* indices,
                const double* sums, const double* divergence, const double* parts, TokenWeight weight, double* totals,
                double* each);

}  // namespace limbeck::kernels
