// What a config says of a run's steps, in the words of those who make them.
//
//     optim::Optimizer optimizer(trained, optimizer_settings(config.optimizer, memory));
//     training_step.run(samples, step_options(config, steps_done, distillation, vocabulary), rate);
#pragma once

#include <cstdint>
#include <vector>

#include "data/text/loader.h"
#include "launch/config/config.h"
#include "launch/run/step.h"
#include "optim/groups.h"
#include "optim/objectives.h"
#include "optim/optimizer.h"

namespace limbeck::launch {

/// Of weights in `memory`.
optim::OptimizerSettings optimizer_settings(const OptimizerConfig& config, const core::MemoryPtr& memory);
std::vector<optim::Group> optimizer_groups(const OptimizerConfig& config);
/// Throws a UsageError where experts are to choose tokens (routing.expert_choice) of a model that has none, or whose
/// tokens choose in a way of their own.
void check_expert_choice(const RoutingConfig& config, const nn::ModelConfig& student);
/// That a token of training has, on average.
double experts_a_token(const RoutingConfig& config, const nn::MoeConfig& moe);
std::int64_t bucket_bytes(const ParallelConfig& config);
/// `vocabulary`: the tokenizer's tokens.
data::LoaderOptions loader_options(const RunConfig& config, std::int64_t vocabulary);
/// Of the step behind `steps_done`, but for what the student is held to beside its objective. `valid_vocabulary`: the
/// tokenizer's tokens.
StepOptions step_options(const RunConfig& config, std::int64_t steps_done,
                         const optim::DistillationOptions& distillation, std::int64_t valid_vocabulary);

}  // namespace limbeck::launch
