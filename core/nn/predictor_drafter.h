// Drafts by the layers of a model that predict further tokens (core/nn/predictor.h), a token each, whose keys and
// values it keeps.
//
//     PredictorDrafter drafter(model, num_slots);
//     auto drafts = drafter.draft({&part, 1}, choose);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/drafter.h"

namespace limbeck::nn {

class PredictorDrafter : public Drafter {
 public:
  PredictorDrafter(const Transformer& model, std::int64_t num_slots);
  const Transformer& head_of() const override { return model_; }
  std::int64_t most(std::int64_t /*size*/) const override { return model_.num_predictors(); }
  std::vector<std::vector<std::int32_t>> draft(std::span<const DraftPart> parts, const Choose& choose) override;
  void clear(std::int64_t slot) override;

 private:
  std::int64_t first_of(const DraftPart& part) const;
  Tensor states_of(std::span<const DraftPart> parts);

  const Transformer& model_;
  KvCache cache_;
  std::vector<Tensor> tails_;  // by slot: hidden states of the last tokens, one fewer than there are depths
};

}  // namespace limbeck::nn
