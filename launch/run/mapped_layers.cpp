#include "launch/run/mapped_layers.h"

#include <algorithm>

#include "core/nn/layers_ahead.h"
#include "data/files/mapped_file.h"

namespace limbeck::launch {

MappedLayers::MappedLayers(nn::Transformer& model) {
  layers_.resize(static_cast<std::size_t>(model.config().num_layers));
  for (const core::Parameter* p : model.parameters()) {
    if (!p->value.memory()->is_host() || p->value.bytes() == 0) continue;
    const std::byte* begin = p->value.host_raw();
    if (data::mapped_file_at(begin) == nullptr) continue;
    bytes_ += p->value.bytes();
    if (const auto layer = nn::layer_of(*p))
      layers_.at(static_cast<std::size_t>(*layer)).emplace_back(begin, static_cast<std::size_t>(p->value.bytes()));
  }
}

void MappedLayers::ask_for(std::size_t layer) const {
  if (layer >= layers_.size()) return;
  for (const auto& place : layers_[layer]) data::fetch_mapped(place);
}

void MappedLayers::watch(nn::Pass& pass) const {
  const auto has_some = [](const Places& places) { return !places.empty(); };
  const auto first = static_cast<std::size_t>(std::ranges::find_if(layers_, has_some) - layers_.begin());
  ask_for(first);
  ask_for(first + 1);
  pass.gives = [this, before = std::move(pass.gives)](std::int64_t layer, const core::Var& out) {
    if (before) before(layer, out);
    for (const auto& place : layers_.at(static_cast<std::size_t>(layer))) data::release_mapped(place);
    ask_for(static_cast<std::size_t>(layer) + 2);
  };
}

}  // namespace limbeck::launch
