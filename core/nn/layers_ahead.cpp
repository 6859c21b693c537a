#include "core/nn/layers_ahead.h"

#include <charconv>

namespace limbeck::nn {

std::optional<std::int64_t> layer_of(const core::Parameter& parameter, std::string_view prefix) {
  if (!parameter.name.starts_with(prefix)) return std::nullopt;
  std::int64_t layer = 0;
  const char* const end = parameter.name.data() + parameter.name.size();
  const auto read = std::from_chars(parameter.name.data() + prefix.size(), end, layer);
  if (read.ec != std::errc() || read.ptr == end || *read.ptr != '.') return std::nullopt;
  return layer;
}

void LayersAhead::ask_for(std::int64_t layer) {
  if (!has(layer)) return;
  const auto at = static_cast<std::size_t>(layer);
  if (stands_[at] != Stand::Freed) return;
  start(at);
  stands_[at] = Stand::UnderWay;
}

void LayersAhead::bring(std::int64_t layer) {
  if (!has(layer)) return;
  ask_for(layer);
  Stand& stand = stands_[static_cast<std::size_t>(layer)];
  if (stand == Stand::UnderWay) finish(static_cast<std::size_t>(layer));
  stand = Stand::Whole;
}

void LayersAhead::free(std::size_t layer) {
  if (layer >= stands_.size()) return;
  if (stands_[layer] == Stand::UnderWay) bring(static_cast<std::int64_t>(layer));
  let_go(layer);
  stands_[layer] = Stand::Freed;
}

void LayersAhead::free_all() {
  for (std::size_t layer = 0; layer < stands_.size(); ++layer) free(layer);
}

void LayersAhead::before(core::Tape& tape, std::int64_t layer) {
  bring(layer);
  ask_for(layer + 1);
  tape.push({"free weights", {}, [this, layer] { free(static_cast<std::size_t>(layer)); }});
}

void LayersAhead::behind(core::Tape& tape, std::int64_t layer) {
  if (!tape.records() || layer + 1 < std::ssize(stands_)) free(static_cast<std::size_t>(layer));
  tape.push({"gather weights", {}, [this, layer] {
               bring(layer);
               ask_for(layer - 1);
             }});
}

}  // namespace limbeck::nn
