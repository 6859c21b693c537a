// Parameters of which each sharer steps on its share: it is sent to the others, who take over those of theirs; at once
// behind the step, or, where the model's values are dealt too, whenever they are used.
//
//     SharedValues values(parameters, groups, bytes_at_once);
//     model.set_weights(values.weights());
//     model.load(reader);                                 // each is dealt as it comes
//     values.begin();                                     // or what has been loaded before
//     ... each rank has stepped on its share of each parameter
//     values.gather();
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "parallel/axes/end_values.h"
#include "parallel/axes/layer_values.h"
#include "parallel/axes/value_parts.h"

namespace limbeck::parallel {

class SharedValues {
 public:
  /// Parameters that are not frozen, of groups which must outlive it. They travel by about `bytes_at_once`, those that
  /// are dealt by layer, layers.N.* and predict.N.*. Collective.
  SharedValues(const core::ParameterList& parameters, const GradientGroups& groups, std::int64_t bytes_at_once);

  /// The values that are there are those to begin with; what is dealt of them is freed.
  void begin();
  /// Collective: every value that is not dealt is what its sharers have each in their share of it. Nothing where
  /// nothing is shared.
  void gather();

  /// Null where values are not dealt. What is dealt is what a model has but for its last norm, biases of its head, a
  /// reward head, and an embedding that both ends of a pipeline have.
  nn::ModelWeights weights() { return {layers_.get(), predictors_.get(), ends_.get()}; }
  /// Where this rank's share of a parameter lies, [length]; undefined: in its value.
  core::Tensor share(const core::Parameter& parameter) const;
  /// Whether this rank writes its share, of those that have the same one.
  bool writes(const core::Parameter& parameter) const { return writes_.at(&parameter); }

 private:
  void find_writers(const core::ParameterList& parameters, const GradientGroups& groups);

  std::vector<ValuePart> parts_;
  std::unique_ptr<LayerValues> layers_, predictors_;
  std::unique_ptr<EndValues> ends_;
  std::unordered_map<const core::Parameter*, bool> writes_;
};

}  // namespace limbeck::parallel
