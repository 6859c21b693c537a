// A span from the losses of its tokens (kernels/spans.h), alike on every device.
#pragma once

#include "kernels/distillation.h"
#include "kernels/spans.h"

namespace limbeck::kernels {

/// Of tokens that lie one behind the other.
template <class Real>
constexpr Real sum_of_losses(const Real* each, std::int64_t first, std::int64_t count) {
  Real total = 0;
  for (std::int64_t t = first; t < first + count; ++t) total += each[t * num_loss_columns + LossCe];
  return total;
}

/// place [num_span_places]; writes row [num_span_columns] and gives what the span's tokens weigh. Real is double.
template <class Real>
constexpr Real span_row(const std::int64_t* place, const Real* each, const Real* teacher_each, Real* row) {
  row[SpanCount] = 1;
  row[SpanStudentCe] = sum_of_losses(each, place[SpanFirst], place[SpanTokens]);
  row[SpanTeacherCe] = sum_of_losses(teacher_each, place[SpanTeacherFirst], place[SpanTeacherTokens]);
  row[SpanTargets] = static_cast<Real>(place[SpanTokens]);
  row[SpanBytes] = static_cast<Real>(place[SpanTextBytes]);
  return span_loss(-row[SpanTeacherCe], -row[SpanStudentCe], row + SpanLoss);
}

}  // namespace limbeck::kernels
