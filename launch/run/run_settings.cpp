#include "launch/run/run_settings.h"

#include <algorithm>
#include <cmath>

#include "core/device/offload.h"

namespace limbeck::launch {
namespace {

constexpr std::int64_t least_eight_bit_elements = 4096;  // as bitsandbytes: the gain from smaller ones is nothing

nn::RouterTraining router_training(const RunConfig& config, std::int64_t step) {
  return {.balance = config.moe_loss.balance_weight,
          .z = config.moe_loss.z_weight,
          .balance_scope = config.moe_loss.balance_scope,
          .capacity_factor = config.routing.capacity_factor,
          .expert_choice = config.routing.expert_choice,
          .jitter = config.routing.jitter,
          .seed = config.train.seed,
          .step = static_cast<std::uint64_t>(step)};
}

}  // namespace

optim::OptimizerSettings optimizer_settings(const OptimizerConfig& config, const core::MemoryPtr& memory) {
  return {.uses_muon = config.kind == OptimizerKind::Muon,
          .adamw = {.beta1 = config.beta1,
                    .beta2 = config.beta2,
                    .eps = config.eps,
                    .weight_decay = config.weight_decay,
                    .eight_bit_from = config.eight_bit_state ? least_eight_bit_elements : 0},
          .muon = {.momentum = config.momentum, .weight_decay = config.weight_decay},
          .adamw_rate_factor = config.adamw_rate_factor,
          .kept_in = config.offload && memory->has_queue() ? core::offload_memory(memory) : nullptr};
}

std::vector<optim::Group> optimizer_groups(const OptimizerConfig& config) {
  std::vector<optim::Group> groups;
  for (const OptimizerGroupConfig& g : config.groups)
    groups.push_back({.pattern = g.pattern,
                      .rate_factor = g.rate_factor,
                      .weight_decay = g.weight_decay,
                      .frozen = g.frozen,
                      .adamw = g.adamw});
  return groups;
}

void check_expert_choice(const RoutingConfig& config, const nn::ModelConfig& student) {
  if (!config.expert_choice) return;
  const nn::MoeConfig& moe = student.moe;
  for (const auto& [is_so, what] :
       {std::pair(student.num_moe_layers() == 0, "a model without experts"),
        {moe.router != nn::RouterKind::TopK, "moe.router SPARSE_MIXER, whose weights are of a token's own choice"},
        {moe.groups_per_token < moe.num_groups, "moe.groups_per_token below num_groups: a token chooses these"}})
    if (is_so) core::fail_usage("routing.expert_choice is true, expected false with {}", what);
}

double experts_a_token(const RoutingConfig& config, const nn::MoeConfig& moe) {
  const auto usual = static_cast<double>(moe.experts_per_token);
  if (!config.expert_choice || config.capacity_factor == 0) return usual;
  return std::min(config.capacity_factor * usual, static_cast<double>(moe.num_experts));
}

std::int64_t bucket_bytes(const ParallelConfig& config) { return std::llround(config.bucket_mib * 1024 * 1024); }

data::LoaderOptions loader_options(const RunConfig& config, std::int64_t vocabulary) {
  return {.sequence_length = config.data.sequence_length,
          .vocabulary = vocabulary,
          .seed = config.data.seed,
          .held_out = config.data.held_out_fraction,
          .has_pairs = config.objective.has_pairs()};
}

StepOptions step_options(const RunConfig& config, std::int64_t steps_done,
                         const optim::DistillationOptions& distillation, std::int64_t valid_vocabulary) {
  const ObjectiveConfig& objective = config.objective;
  return {.micro_batches = config.batch.micro_batches,
          .router = router_training(config, steps_done),
          .expert_chunks = config.parallel.expert_chunks,
          .tensor_chunks = config.parallel.tensor_chunks,
          .recompute = config.train.recompute,
          .valid_vocabulary = valid_vocabulary,
          .predict_weight = objective.predict_weight,
          .temperature = distillation.temperature,
          .bridge = objective.bridge,
          .preference_beta = objective.preference ? objective.preference->beta : 0,
          .bridge_ce_weight = distillation.ce_weight,
          .reward = objective.reward,
          .control = {objective.control, objective.smoothing}};
}

}  // namespace limbeck::launch
