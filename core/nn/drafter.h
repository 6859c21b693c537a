// Drafts of what follows texts, which a model then checks together: by its own layers that predict further tokens
// (core/nn/predictor_drafter.h), or by another, smaller model (core/nn/model_drafter.h).
//
//     auto drafts = drafter.draft({&part, 1}, choose);      // up to part.wanted of what follows part.tokens
//     drafter.clear(part.slot);                             // another text may have the slot
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/nn/transformer.h"

namespace limbeck::nn {

/// A text of which the model has run some tokens more. Slots ascend; a text's parts follow each other.
struct DraftPart {
  std::int64_t slot = 0;
  std::int64_t first = 0, end = 0;            // those, of the text; drafts that fell are not among them
  std::int64_t context = 0;                   // positions that the text is known to have
  std::span<const std::int32_t> tokens = {};  // of all of the text, one more than `end` at least
  /// [end - first,C], of Transformer::forward; of fewer where a model's states went back, which have no predictors.
  Tensor hidden = {};
  std::int64_t wanted = 0;  // drafts, where `tokens` ends with the one behind `end`
};

class Drafter {
 public:
  /// The tokens of hidden states [N,C] before the head of head_of(), a row of each of these parts, so many behind the
  /// known ones.
  using Choose = std::function<std::vector<std::int32_t>(std::span<const std::size_t> parts, const Tensor& hidden,
                                                         std::int64_t further)>;

  Drafter() = default;
  Drafter(const Drafter&) = delete;
  Drafter& operator=(const Drafter&) = delete;
  virtual ~Drafter() = default;

  /// Whose head gives a draft's logits.
  virtual const Transformer& head_of() const = 0;
  /// How many drafts may follow a text of so many tokens; once none, never again.
  virtual std::int64_t most(std::int64_t size) const = 0;
  /// Of each part its drafts. Collective: ranks without tokens have parts without any.
  virtual std::vector<std::vector<std::int32_t>> draft(std::span<const DraftPart> parts, const Choose& choose) = 0;
  /// The slot holds nothing.
  virtual void clear(std::int64_t slot) = 0;

 protected:
  /// The last rows of these sequences of a batch; none on a rank without tokens.
  static Tensor last_rows(const Tensor& hidden, const Batch& batch, std::span<const std::size_t> sequences);
};

}  // namespace limbeck::nn
