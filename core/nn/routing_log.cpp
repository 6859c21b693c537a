#include "core/nn/routing_log.h"

namespace limbeck::nn {
namespace {

bool are_same(const Tensor& a, const Tensor& b) {
  return a.storage() == b.storage() && a.byte_offset() == b.byte_offset() && a.shape() == b.shape();
}

}  // namespace

void RoutingLog::record(const std::string& layer, const Tensor& global_index, const Tensor& selection) {
  layers_[layer].recorded.push_back({global_index, selection});
}

const RoutingLog::Choices& RoutingLog::choices_of(const Layer& layer) {
  Choices& choices = layer.choices;
  for (; choices.num_read < layer.recorded.size(); ++choices.num_read) {
    const auto& [global_index, selection] = layer.recorded[choices.num_read];
    const std::vector<std::int64_t> index = core::host_values<std::int64_t>(global_index);
    const std::vector<std::int32_t> chosen = core::host_values<std::int32_t>(selection);
    auto at = chosen.begin();
    for (const std::int64_t token : index) {
      choices.of_token[token].assign(at, at + selection.shape()[1]);
      at += selection.shape()[1];
    }
  }
  return choices;
}

std::optional<Tensor> RoutingLog::find(const std::string& layer, const Tensor& global_index) const {
  const auto at = layers_.find(layer);
  if (at == layers_.end()) return std::nullopt;
  for (const Recorded& recorded : at->second.recorded)
    if (are_same(recorded.global_index, global_index)) return recorded.selection;

  const std::scoped_lock lock(*reading_);
  const Choices& choices = choices_of(at->second);
  const std::int64_t num_tokens = global_index.numel(), experts = at->second.recorded.front().selection.shape()[1];
  std::vector<std::int32_t> selection(static_cast<std::size_t>(num_tokens * experts));
  auto out = selection.begin();
  std::int64_t found = 0;
  for (const std::int64_t token : core::host_values<std::int64_t>(global_index)) {
    if (const auto choice = choices.of_token.find(token); choice != choices.of_token.end()) {
      std::copy(choice->second.begin(), choice->second.end(), out);
      ++found;
    }
    out += experts;
  }
  if (found == 0 && num_tokens > 0) return std::nullopt;
  core::check(found == num_tokens, "routing log: {} holds the choice of {} of {} tokens", layer, found, num_tokens);
  return Tensor::from<std::int32_t>(global_index.memory(), {num_tokens, experts}, selection);
}

void RoutingLog::merge(const RoutingLog& other) {
  const auto here = [](const Tensor& x) { return x.in(x.memory()->host()); };
  for (const auto& [name, layer] : other.layers_)
    for (const Recorded& recorded : layer.recorded) record(name, here(recorded.global_index), here(recorded.selection));
}

}  // namespace limbeck::nn
