// A teacher of other tokens that read the same text, for objectives that compare its distributions with a student's
// where both predict what begins at the same byte: at the first tokens of spans (core/ops/spans.h).
//
//     PairedTeacher teacher(hidden, head, {}, table, num_tokens, {.student = {v, v}, .teacher = {w, w}}, totals);
//     Var loss = head_loss(tape, own_hidden, own_head, targets, objective, &teacher, comm, options, losses);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/ops/head_loss.h"

namespace limbeck::core {

class PairedTeacher final : public TargetSource {
 public:
  struct Vocabularies {
    PairedLogits::Vocabulary student, teacher;
  };
  /// `hidden` [Tt,Ct] of the teacher's own tokens, of which those that are of a pair are kept; `head` [V_local,Ct] and
  /// its bias, cut as the student's; `table` [n,num_span_places] with places in `tokens` of the student and those Tt,
  /// which check_span_table has seen. What objectives sum over pairs is added to `totals`.
  PairedTeacher(const Tensor& hidden, Tensor head, Tensor bias, std::span<const std::int64_t> table,
                std::int64_t tokens, const Vocabularies& vocabularies, Tensor totals);
  bool is_paired() const override { return true; }
  PairedLogits paired(std::int64_t first, std::int64_t count) override;
  Tensor logits(std::int64_t first, std::int64_t count) override;

 private:
  std::vector<std::int64_t> places_;  // of the student, rising
  Tensor pair_of_;                    // [tokens] int32
  OnlineTeacher teacher_;             // of the pairs
  Vocabularies vocabularies_;
  Tensor totals_;
};

}  // namespace limbeck::core
