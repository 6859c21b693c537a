#include "core/nn/routing_log.h"

#include <algorithm>

namespace limbeck::nn {

void RoutingLog::record(const std::string& layer, const Tensor& global_index, const Tensor& selection) {
  const std::int64_t k = selection.shape()[1];
  Layer& entry = layers_[layer];
  entry.experts_per_token = k;
  const auto* index = global_index.data<std::int64_t>();
  const auto* chosen = selection.data<std::int32_t>();
  for (std::int64_t t = 0; t < global_index.numel(); ++t)
    entry.choice[index[t]].assign(chosen + t * k, chosen + (t + 1) * k);
}

std::optional<Tensor> RoutingLog::find(const std::string& layer, const Tensor& global_index) const {
  const auto at = layers_.find(layer);
  if (at == layers_.end()) return std::nullopt;
  const Layer& entry = at->second;
  const std::int64_t num_tokens = global_index.numel();
  Tensor selection = Tensor::empty(global_index.memory(), core::DType::I32, {num_tokens, entry.experts_per_token});
  auto* out = selection.mutable_data<std::int32_t>();
  const auto* index = global_index.data<std::int64_t>();
  std::int64_t found = 0;
  for (std::int64_t t = 0; t < num_tokens; ++t)
    if (const auto choice = entry.choice.find(index[t]); choice != entry.choice.end()) {
      std::copy(choice->second.begin(), choice->second.end(), out + t * entry.experts_per_token);
      ++found;
    }
  if (found == 0 && num_tokens > 0) return std::nullopt;
  core::check(found == num_tokens, "routing log: {} holds the choice of {} of {} tokens", layer, found, num_tokens);
  return selection;
}

void RoutingLog::merge(const RoutingLog& other) {
  for (const auto& [name, layer] : other.layers_) {
    Layer& entry = layers_[name];
    entry.experts_per_token = layer.experts_per_token;
    for (const auto& [index, choice] : layer.choice) entry.choice[index] = choice;
  }
}

}  // namespace limbeck::nn
