// The values of a model's layers, dealt among sharers: whole only while their layer runs, forward or backward, and
// while the next one's travel.
//
//     LayerValues layers(parameters, groups, "layers.");
//     layers.part_from_values();
//     model.set_weights({.layers = &layers});
#pragma once

#include <cstddef>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/nn/layers_ahead.h"
#include "parallel/axes/value_parts.h"

namespace limbeck::parallel {

/// Collective, as the layers' own exchanges.
class LayerValues final : public nn::LayersAhead {
 public:
  /// Those of a layer that are not frozen, named with this prefix, of groups which must outlive it. Of a pipeline's
  /// stage some layers alone are here; those between and before them have nothing.
  LayerValues(const core::ParameterList& parameters, const GradientGroups& groups, std::string_view prefix);

  /// The values that are there are those to begin with; they are freed.
  void part_from_values();
  /// Likewise of the layer of a parameter that has just been filled.
  void filled(core::Parameter& parameter) override;
  /// Where a share lies, [length]; undefined where it is of no layer.
  core::Tensor share(const core::Parameter& parameter) const;
  /// Collective: of all layers, also those that were on their way in vain.
  void free_values() { free_all(); }

 private:
  struct Place {
    std::size_t layer, part, index;
  };
  void start(std::size_t layer) override;
  void finish(std::size_t layer) override;
  void let_go(std::size_t layer) override;

  std::vector<std::vector<ValuePart>> layers_;  // the parts by group
  std::unordered_map<const core::Parameter*, Place> places_;
};

}  // namespace limbeck::parallel
