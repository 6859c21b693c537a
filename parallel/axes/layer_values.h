// The values of a model's layers, dealt among sharers: whole only while their layer runs, forward or backward, and
// while the next one's travel.
//
//     LayerValues layers(parameters, groups);
//     layers.part_from_values();
//     model.set_layer_weights(&layers);
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/nn/layer_weights.h"
#include "parallel/axes/value_parts.h"

namespace limbeck::parallel {

class LayerValues final : public nn::LayerWeights {
 public:
  /// N of layers.N.*; nothing of other names.
  static std::optional<std::int64_t> layer_of(const core::Parameter& parameter);

  /// Those of a layer that are not frozen, of groups which must outlive it. Of a pipeline's stage some layers alone are
  /// here; those between and before them have nothing.
  LayerValues(const core::ParameterList& parameters, const GradientGroups& groups);

  /// The values are those to begin with; they are freed.
  void part_from_values();
  /// Where a share lies, [length]; undefined where it is of no layer.
  core::Tensor share(const core::Parameter& parameter) const;
  /// Collective: of all layers, also those that were on their way in vain.
  void free_values();

  // Collective, as the layers' own exchanges: gathered before use, the next one in the same direction asked for, freed
  // behind it, but for the last layer's, with which backward begins.
  void before(core::Tape& tape, std::int64_t layer) override;
  void behind(core::Tape& tape, std::int64_t layer) override;

 private:
  enum class Stand : std::uint8_t { Freed, UnderWay, Whole };
  struct Layer {
    std::vector<ValuePart> parts;  // by group
    Stand stand = Stand::Whole;
  };
  struct Place {
    std::size_t layer, part, index;
  };
  void ask_for(std::int64_t layer);
  void bring(std::int64_t layer);
  void free(std::int64_t layer);

  std::vector<Layer> layers_;
  std::unordered_map<const core::Parameter*, Place> places_;
};

}  // namespace limbeck::parallel
