// A student and a teacher of other tokens, held against each other on the spans of text that both have borders of: what
// each span loses becomes weights of its tokens, with which the head's backward is that of a language model
// (docs/gradients.md).
//
//     LossAccumulator said(memory, /*keeps_each=*/true), theirs(memory, true);   // of the student, and of the teacher
//     head_loss(off, hidden, head, targets, LanguageModelling(), nullptr, comm, options, said);
//     head_loss(off, teacher_hidden, teacher_head, teacher_targets, ..., theirs);
//     options.row_weights = span_weights(said.each(), theirs.each(), table, 0.1, totals);
//     Var loss = head_loss(tape, hidden, head, targets, LanguageModelling(), nullptr, comm, options, unused);
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "kernels/spans.h"

namespace limbeck::core {

/// What each of the student's tokens [T] weighs in the gradient of cross-entropy so that it is that of ce CE +
/// (1 - ce) times the sum over the spans of what they lose. `each` [T,num_loss_columns] float64 is the student's,
/// `teacher_each` the teacher's of its own tokens, `table` [n,num_span_places] int64 with places in both, which
/// check_span_table has seen. The spans' columns are added to totals [num_span_columns] float64.
Tensor span_weights(const Tensor& each, const Tensor& teacher_each, const Tensor& table, double ce, Tensor& totals);

/// On the host, before a table goes to the device: throws unless each span has tokens of both sides, which are there,
/// and none of the student's is of two.
void check_span_table(std::span<const std::int64_t> table, std::int64_t tokens, std::int64_t teacher_tokens);

}  // namespace limbeck::core
