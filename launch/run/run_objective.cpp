#include "launch/run/run_objective.h"

#include <algorithm>

#include "core/counted.h"

namespace limbeck::launch {
namespace {

using core::fail_usage;

double usual_mix(kernels::Divergence divergence) {
  return divergence == kernels::Divergence::JensenShannon ? 0.5 : 0.1;
}

optim::CachedDistillationOptions cached_options(const RunConfig& config, std::int64_t step) {
  const optim::DistillationOptions whole = distillation_options(config, step, /*is_sampled=*/false);
  return {
      .ce_weight = whole.ce_weight, .temperature = whole.temperature, .renormalised = config.objective.renormalised};
}

}  // namespace

optim::DistillationOptions distillation_options(const RunConfig& config, std::int64_t step, bool is_sampled) {
  const ObjectiveConfig& c = config.objective;
  const auto steps = static_cast<double>(std::max<std::int64_t>(config.train.steps - 1, 1));
  const double passed = std::clamp(static_cast<double>(step - 1) / steps, 0.0, 1.0);
  const auto between = [&](double first, std::optional<double> last) {
    return last ? first + passed * (*last - first) : first;
  };
  const auto divergence = is_sampled ? c.sampled_text.divergence : c.divergence;
  const double mix = is_sampled ? c.sampled_text.mix : c.mix;
  return {.ce_weight = is_sampled ? c.sampled_text.cross_entropy_weight
                                  : between(c.cross_entropy_weight, c.final_cross_entropy_weight),
          .temperature = between(c.temperature, c.final_temperature),
          .divergence = divergence,
          .mix = mix > 0 ? mix : usual_mix(divergence)};
}

RunObjective::RunObjective(const RunConfig& config, bool has_teacher, bool has_part) : config_(config) {
  if (has_part) {
    auto cached = std::make_unique<optim::CachedDistillation>(cached_options(config, 1));
    cached_ = cached.get();
    objective_ = std::move(cached);
    return;
  }
  if (!has_teacher || config.objective.preference) {  // the reference's figures are added to the model's
    objective_ = std::make_unique<optim::LanguageModelling>();
    return;
  }
  auto distillation = std::make_unique<optim::Distillation>(distillation_options(config, 1, false));
  distillation_ = distillation.get();
  objective_ = std::move(distillation);
}

void RunObjective::begin_step(std::int64_t step, bool is_sampled) {
  if (cached_ != nullptr) cached_->set(cached_options(config_, step));
  if (distillation_ != nullptr) distillation_->set(distillation_options(config_, step, is_sampled));
}

std::optional<HiddenMatch> hidden_match(const HiddenStatesConfig& config, const nn::ModelConfig& student,
                                        const nn::ModelConfig& teacher, std::span<const std::int64_t> kept) {
  if (config.weight == 0) return std::nullopt;
  if (student.width != teacher.width && !config.projector)
    fail_usage(
        "objective.hidden_states.projector is false, expected true: the student's hidden states are {} wide, the "
        "teacher's {}",
        student.width, teacher.width);
  HiddenMatch match{.weight = config.weight, .distance = config.distance, .layers = config.layers};
  if (match.layers.empty()) {
    for (std::int64_t i = 0; i < student.num_layers; ++i)
      match.layers.push_back(i + 1 == student.num_layers ? teacher.num_layers - 1
                             : !kept.empty()             ? kept[static_cast<std::size_t>(i + 1)] - 1
                                                         : (i + 1) * teacher.num_layers / student.num_layers - 1);
  }
  if (std::ssize(match.layers) != student.num_layers)
    fail_usage("objective.hidden_states.layers has {}, expected one for each of the student's {}",
               core::counted(std::ssize(match.layers), "layer"), student.num_layers);
  for (const std::int64_t layer : match.layers)
    if (layer < -1 || layer >= teacher.num_layers)
      fail_usage("objective.hidden_states.layers has {}, expected -1 or a layer of the teacher's {}, from 0", layer,
                 teacher.num_layers);
  if (match.num_matched() == 0)
    fail_usage("objective.hidden_states.layers names no layer, expected one or more, or a weight of 0");
  return match;
}

}  // namespace limbeck::launch
