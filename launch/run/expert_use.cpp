#include "launch/run/expert_use.h"

#include <fmt/format.h>

#include "core/error.h"

namespace limbeck::launch {

ExpertUse::ExpertUse(const nn::ModelConfig& model) : vocabulary_(model.vocabulary) {
  for (std::int64_t layer = 0; layer < model.num_layers; ++layer)
    if (model.is_moe_layer(layer))
      layers_.push_back({layer, JointCounts(model.moe.num_experts), JointCounts(model.moe.num_experts)});
}

void ExpertUse::add(const nn::RoutingLog& log, const nn::Batch& batch, std::span<const Token> tokens) {
  if (batch.num_tokens() == 0) return;
  for (Layer& layer : layers_) {
    const auto selection = log.find(fmt::format("layers.{}.moe", layer.layer), batch.global_index);
    core::check(selection.has_value(), "expert use: layer {} has no experts for these tokens", layer.layer);
    const std::vector<std::int32_t> experts = core::host_values<std::int32_t>(*selection);
    const std::int64_t chosen = selection->shape()[1];
    for (const Token& token : tokens)
      for (std::int64_t k = 0; k < chosen; ++k) {
        const std::int32_t expert = experts[static_cast<std::size_t>(token.row * chosen + k)];
        if (expert < 0) continue;
        layer.by_token.add(token.id, expert);
        layer.by_document.add(token.document, expert);
      }
  }
}

std::vector<LayerUse> ExpertUse::sum_over(Rank& rank, std::int64_t num_documents) const {
  std::vector<LayerUse> result;
  for (const Layer& layer : layers_) {
    const JointSums by_token = layer.by_token.sum_over(rank, vocabulary_);
    const JointSums by_document = layer.by_document.sum_over(rank, num_documents);
    result.push_back({.layer = layer.layer,
                      .assignments = by_token.columns,
                      .token_specialisation = by_token.specialisation(),
                      .document_specialisation = by_document.specialisation()});
  }
  return result;
}

}  // namespace limbeck::launch
