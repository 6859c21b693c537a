#include "parallel/axes/layer_values.h"

#include <limits>
#include <optional>

namespace limbeck::parallel {

LayerValues::LayerValues(const core::ParameterList& parameters, const GradientGroups& groups, std::string_view prefix) {
  std::vector<core::ParameterList> lists;
  for (core::Parameter* p : parameters) {
    const std::optional<std::int64_t> layer = nn::layer_of(*p, prefix);
    if (!layer || p->is_frozen()) continue;
    if (*layer >= std::ssize(lists)) lists.resize(static_cast<std::size_t>(*layer + 1));
    lists[static_cast<std::size_t>(*layer)].push_back(p);
  }
  for (std::size_t layer = 0; layer < lists.size(); ++layer) {
    layers_.push_back(
        make_value_parts(lists[layer], groups, std::numeric_limits<std::int64_t>::max(), ValuePart::Shares::Apart));
    for (std::size_t part = 0; part < layers_.back().size(); ++part)
      for (std::size_t i = 0; i < layers_.back()[part].parameters().size(); ++i)
        places_[layers_.back()[part].parameters()[i]] = {layer, part, i};
  }
  begin(layers_.size(), Stand::Whole);
}

void LayerValues::part_from_values() {
  for (std::vector<ValuePart>& parts : layers_)
    for (ValuePart& part : parts) part.part_from_values();
  free_all();
}

void LayerValues::filled(core::Parameter& parameter) {
  const auto found = places_.find(&parameter);
  if (found == places_.end()) return;
  const std::size_t layer = found->second.layer;
  for (ValuePart& part : layers_[layer]) part.part_from_values();
  free(layer);
}

core::Tensor LayerValues::share(const core::Parameter& parameter) const {
  const auto found = places_.find(&parameter);
  if (found == places_.end()) return {};
  const auto& [layer, part, index] = found->second;
  return layers_[layer][part].share(index);
}

void LayerValues::start(std::size_t layer) {
  for (ValuePart& part : layers_[layer]) part.start();
}

void LayerValues::finish(std::size_t layer) {
  for (ValuePart& part : layers_[layer]) part.finish();
}

void LayerValues::let_go(std::size_t layer) {
  for (ValuePart& part : layers_[layer]) part.free_values();
}

}  // namespace limbeck::parallel
