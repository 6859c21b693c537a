// Drafts by another model of the same tokens: it runs what it has not seen yet of each text, then one draft after
// another.
//
//     ModelDrafter drafter(student, num_slots, 4);
//     auto drafts = drafter.draft({&part, 1}, choose);      // up to four
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/drafter.h"

namespace limbeck::nn {

class ModelDrafter : public Drafter {
 public:
  /// At most `num_drafts` of a text at once.
  ModelDrafter(const Transformer& model, std::int64_t num_slots, std::int64_t num_drafts);
  const Transformer& head_of() const override { return model_; }
  /// As many as the model has positions for. Where longer texts are turned otherwise, none of them makes a text long.
  std::int64_t most(std::int64_t size) const override;
  std::vector<std::vector<std::int32_t>> draft(std::span<const DraftPart> parts, const Choose& choose) override;
  void clear(std::int64_t slot) override;

 private:
  bool has_states() const { return model_.config().num_mamba_layers() > 0; }
  /// Tokens that one pass runs, and the slots that they go behind.
  struct Round {
    std::vector<std::size_t> parts = {};
    std::vector<std::vector<std::int32_t>> tokens = {};
    std::vector<std::int64_t> contexts = {};
  };
  Round unseen_of(std::span<const DraftPart> parts);
  Batch batch_of(std::span<const DraftPart> parts, const Round& round, std::vector<std::int64_t>& slots) const;

  const Transformer& model_;
  std::int64_t num_drafts_;
  KvCache cache_;
  std::vector<bool> is_long_;  // by slot: what it holds is turned as a long text
};

}  // namespace limbeck::nn
