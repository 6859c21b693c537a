// Drafts of what follows texts, by the layers of a model that predict further tokens (core/nn/predictor.h), whose keys
// and values it keeps.
//
//     Drafter drafter(model, num_slots);
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
  std::int64_t first = 0, end = 0;            // those, of the text
  std::int64_t context = 0;                   // positions that the text is known to have
  std::span<const std::int32_t> tokens = {};  // of all of the text, one more than `end` at least
  Tensor hidden = {};                         // [end - first,C], of Transformer::forward
  std::int64_t wanted = 0;                    // drafts, where `tokens` ends with the one behind `end`
};

class Drafter {
 public:
  /// The tokens of hidden states [N,C], a row of each of these parts, so many behind the known ones.
  using Choose = std::function<std::vector<std::int32_t>(std::span<const std::size_t> parts, const Tensor& hidden,
                                                         std::int64_t further)>;

  Drafter(const Transformer& model, std::int64_t num_slots);
  /// Of each part its drafts. Collective: ranks without tokens have parts without any.
  std::vector<std::vector<std::int32_t>> draft(std::span<const DraftPart> parts, const Choose& choose);
  /// The slot holds nothing.
  void clear(std::int64_t slot);

 private:
  std::int64_t first_of(const DraftPart& part) const;
  Tensor states_of(std::span<const DraftPart> parts);

  const Transformer& model_;
  KvCache cache_;
  std::vector<Tensor> tails_;  // by slot: hidden states of the last tokens, one fewer than there are depths
};

}  // namespace limbeck::nn
