#include "launch/run/mapped_layers.h"

#include <algorithm>
#include <memory>

#include "core/nn/layers_ahead.h"
#include "data/files/mapped_file.h"

namespace limbeck::launch {

MappedLayers::MappedLayers(nn::Transformer& model, parallel::FileWaits* waits) : waits_(waits) {
  layers_.resize(static_cast<std::size_t>(model.config().num_layers));
  for (const core::Parameter* p : model.parameters()) {
    if (!p->value.memory()->is_host() || p->value.bytes() == 0) continue;
    const std::byte* begin = p->value.host_raw();
    const char* const file = data::mapped_file_at(begin);
    if (file == nullptr) continue;
    if (file_.empty()) file_ = file;
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
  auto scope = std::make_shared<parallel::FileWait>(waits_, [this] { return "reads " + file_; });  // for the whole pass
  ask_for(first);
  ask_for(first + 1);
  pass.gives = [this, scope = std::move(scope), before = std::move(pass.gives)](std::int64_t layer,
                                                                                const core::Var& out) {
    if (before) before(layer, out);
    for (const auto& place : layers_.at(static_cast<std::size_t>(layer))) data::release_mapped(place);
    ask_for(static_cast<std::size_t>(layer) + 2);
  };
}

}  // namespace limbeck::launch
