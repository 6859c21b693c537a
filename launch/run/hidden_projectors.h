// Matrices that turn a student's hidden states into as many channels as its teacher's have, so that they can be held to
// those (objective.hidden_states.projector): one a layer, without a bias, trained beside the student and no part of it
// (FitNets, Romero et al. 2015; TinyBERT, Jiao et al. 2020).
//
//     HiddenProjectors projectors(session);
//     optim::apply_groups(projectors.parameters(), groups);                      // beside the student's
//     options.hidden->projectors = projectors.by_layer();
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "core/parameter_set.h"
#include "launch/run/session.h"

namespace limbeck::launch {

class HiddenProjectors {
 public:
  /// None where the config asks for none, or there is no teacher; of a pipeline those of its stage's layers. Made by
  /// the run's seed: normal numbers of deviation 1 / sqrt(C).
  explicit HiddenProjectors(const Session& session);
  /// The same of models that need not be there, of those of the student's layers that are here.
  HiddenProjectors(core::ParameterOptions options, const RunConfig& config, const nn::ModelConfig& student,
                   const std::optional<nn::ModelConfig>& teacher, const std::function<bool(std::int64_t)>& is_here);

  core::ParameterList parameters() { return parameters_.list(); }
  /// Of each layer of the student, [Ct,C]; null where it has no match, or lies on another stage. Empty where the config
  /// asks for none.
  const core::ParameterList& by_layer() const { return by_layer_; }
  /// "distillation/hidden_states.3.weight"
  core::StateDict state_dict();
  void load(const core::StateReader& reader);

 private:
  core::ParameterSet parameters_;
  core::ParameterList by_layer_;
};

}  // namespace limbeck::launch
