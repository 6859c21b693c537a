#include "parallel/axes/layer_values.h"

#include <charconv>
#include <limits>
#include <string_view>

namespace limbeck::parallel {

std::optional<std::int64_t> LayerValues::layer_of(const core::Parameter& parameter) {
  constexpr std::string_view prefix = "layers.";
  if (!parameter.name.starts_with(prefix)) return std::nullopt;
  std::int64_t layer = 0;
  const char* const end = parameter.name.data() + parameter.name.size();
  const auto read = std::from_chars(parameter.name.data() + prefix.size(), end, layer);
  if (read.ec != std::errc() || read.ptr == end || *read.ptr != '.') return std::nullopt;
  return layer;
}

LayerValues::LayerValues(const core::ParameterList& parameters, const GradientGroups& groups) {
  std::vector<core::ParameterList> lists;
  for (core::Parameter* p : parameters) {
    const std::optional<std::int64_t> layer = layer_of(*p);
    if (!layer || p->is_frozen()) continue;
    if (*layer >= std::ssize(lists)) lists.resize(static_cast<std::size_t>(*layer + 1));
    lists[static_cast<std::size_t>(*layer)].push_back(p);
  }
  for (std::size_t layer = 0; layer < lists.size(); ++layer) {
    layers_.push_back(
        {make_value_parts(lists[layer], groups, std::numeric_limits<std::int64_t>::max(), ValuePart::Shares::Apart)});
    for (std::size_t part = 0; part < layers_.back().parts.size(); ++part)
      for (std::size_t i = 0; i < layers_.back().parts[part].parameters().size(); ++i)
        places_[layers_.back().parts[part].parameters()[i]] = {layer, part, i};
  }
}

void LayerValues::part_from_values() {
  for (Layer& layer : layers_) {
    for (ValuePart& part : layer.parts) part.part_from_values();
    layer.stand = Stand::Freed;
  }
}

core::Tensor LayerValues::share(const core::Parameter& parameter) const {
  const auto found = places_.find(&parameter);
  if (found == places_.end()) return {};
  const auto& [layer, part, index] = found->second;
  return layers_[layer].parts[part].share(index);
}

void LayerValues::free_values() {
  for (std::int64_t layer = 0; layer < std::ssize(layers_); ++layer) free(layer);
}

void LayerValues::ask_for(std::int64_t layer) {
  if (layer < 0 || layer >= std::ssize(layers_)) return;
  Layer& one = layers_[static_cast<std::size_t>(layer)];
  if (one.stand != Stand::Freed) return;
  for (ValuePart& part : one.parts) part.start();
  one.stand = Stand::UnderWay;
}

void LayerValues::bring(std::int64_t layer) {
  if (layer >= std::ssize(layers_)) return;
  ask_for(layer);
  Layer& one = layers_[static_cast<std::size_t>(layer)];
  if (one.stand == Stand::UnderWay)
    for (ValuePart& part : one.parts) part.finish();
  one.stand = Stand::Whole;
}

void LayerValues::free(std::int64_t layer) {
  if (layer >= std::ssize(layers_)) return;
  Layer& one = layers_[static_cast<std::size_t>(layer)];
  if (one.stand == Stand::UnderWay) bring(layer);
  for (ValuePart& part : one.parts) part.free_values();
  one.stand = Stand::Freed;
}

void LayerValues::before(core::Tape& tape, std::int64_t layer) {
  bring(layer);
  ask_for(layer + 1);
  tape.push({"free weights", {}, [this, layer] { free(layer); }});
}

void LayerValues::behind(core::Tape& tape, std::int64_t layer) {
  if (!tape.records() || layer + 1 < std::ssize(layers_)) free(layer);
  tape.push({"gather weights", {}, [this, layer] {
               bring(layer);
               ask_for(layer - 1);
             }});
}

}  // namespace limbeck::parallel
