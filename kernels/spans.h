// Spans of text that two models of other tokens read: what each span loses, that the other model's likelihood of it is
// another than the teacher's, and what each of its tokens weighs in the gradient of cross-entropy (docs/gradients.md).
//
//     spans(cpu, each, teacher_each, table, n, 0.1, token_weights, t, of_spans);
//     column_sums(cpu, of_spans, /*add=*/true, totals, n, num_span_columns);
#pragma once

#include <cmath>
#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// Where a span lies: places whose targets are its tokens, one behind the other.
enum SpanPlace : std::int64_t {
  SpanFirst,
  SpanTokens,
  SpanTeacherFirst,
  SpanTeacherTokens,
  SpanTextBytes,  // 0 of an end of text
  num_span_places,
};

/// What is known of a span. P and Q are its likelihoods by teacher and student, given what is in front of it.
enum SpanColumn : std::int64_t {
  SpanCount,      // 1
  SpanLoss,       // KL((P, 1 - P) || (Q, 1 - Q))
  SpanStudentCe,  // -log Q
  SpanTeacherCe,  // -log P
  SpanTargets,    // the student's tokens
  SpanBytes,      // of text
  num_span_columns,
};

/// Of what is likelier than 1 - this no difference is made: so the weight below is at most its inverse, which a
/// gradient of float32, right to 6e-8 of 1, bears.
constexpr double least_span_rest = 1.0 / 65536;

/// log(1 - e^x) of x < 0.
template <class Real>
constexpr Real log_rest(Real x) {
  return x > -0.6931471805599453 ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x));
}

/// The divergence of two outcomes, a span or any other, of log P and log Q, into `loss`, and its negative derivative
/// by log Q: what each of the span's tokens weighs. P is at most 1 - least_span_rest; from where Q is more, the
/// divergence goes on as a straight line in log Q. Real is double.
template <class Real>
constexpr Real span_loss(Real log_p, Real log_q, Real* loss) {
  const Real most = std::log1p(-least_span_rest);
  const Real lp = log_p < most ? log_p : most, lq = log_q < most ? log_q : most;
  const Real p = std::exp(lp), rest = -std::expm1(lq);
  const Real slope = (std::exp(lq) - p) / rest;
  *loss = p * (lp - lq) + (1 - p) * (log_rest(lp) - log_rest(lq)) + slope * (log_q - lq);
  return -slope;
}

/// table [n,num_span_places]; each [tokens,num_loss_columns], teacher_each likewise of the teacher's own tokens, whose
/// LossCe count. token_weights [tokens]: ce + (1 - ce) span_loss of a span's tokens, ce of all others; no token is of
/// two spans. of_spans [n,num_span_columns]. A span's sums have one order.
template <class D>
void spans(const D& device, const double* each, const double* teacher_each, const std::int64_t* table, std::int64_t n,
           double ce, double* token_weights, std::int64_t tokens, double* of_spans);

}  // namespace limbeck::kernels
