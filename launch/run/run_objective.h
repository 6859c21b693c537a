// What a run trains by, step by step, as its config says: the objective, and which hidden states are to be alike.
//
//     RunObjective objective(session.config, session.teacher != nullptr);
//     objective.begin_step(step, is_sampled);                      // alpha and temperature may follow the steps
//     head_loss(..., objective.get(), ...);
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "launch/config/config.h"
#include "launch/run/step.h"
#include "optim/cached_distillation.h"
#include "optim/objectives.h"
#include "optim/sorted_distillation.h"

namespace limbeck::launch {

/// What distillation is by in a step of a run of config.train.steps, counted from 1. `is_sampled`: it reads what a
/// model said (objective.sampled_text).
optim::DistillationOptions distillation_options(const RunConfig& config, std::int64_t step, bool is_sampled);

class RunObjective {
 public:
  /// `has_teacher`: one of the student's tokens. `has_part`: of the teacher's distributions a cache gives a part.
  RunObjective(const RunConfig& config, bool has_teacher, bool has_part = false);
  const core::Objective& get() const { return *objective_; }
  void begin_step(std::int64_t step, bool is_sampled);

 private:
  const RunConfig& config_;
  std::unique_ptr<core::Objective> objective_;
  optim::Distillation* distillation_ = nullptr;  // the objective, where it is one
  optim::CachedDistillation* cached_ = nullptr;  // likewise
  optim::SortedDistillation* sorted_ = nullptr;
};

/// The teacher's layers whose output those of a student should give, as objective.hidden_states says; nothing where its
/// weight is 0. `kept` are the teacher's layers that the student was cut from, or empty: each of its layers is to give
/// what the next one of them read in the teacher, and the last the last one's output. Without them layers are evenly
/// spaced. Throws a UsageError where the layers do not fit the two models, or their widths differ without a projector.
std::optional<HiddenMatch> hidden_match(const HiddenStatesConfig& config, const nn::ModelConfig& student,
                                        const nn::ModelConfig& teacher, std::span<const std::int64_t> kept);
/// The same of what blocks give, and of routers, by objective.attention, .feed_forward and .routers: of each layer of a
/// student that was cut from its teacher the layer that it was. Throws a UsageError too where widths, or numbers of
/// experts, differ.
UpdateMatches update_matches(const ObjectiveConfig& config, const nn::ModelConfig& student,
                             const nn::ModelConfig& teacher, std::span<const std::int64_t> kept);
std::optional<RouterMatch> router_match(const RouterMatchConfig& config, const nn::ModelConfig& student,
                                        const nn::ModelConfig& teacher, std::span<const std::int64_t> kept);
/// Throws a UsageError, which names both, where it asks for a layer that a cache does not keep.
void check_kept(const HiddenMatch& match, const std::vector<std::int64_t>& kept, const std::string& cache);

}  // namespace limbeck::launch
