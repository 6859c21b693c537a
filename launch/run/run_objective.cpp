#include "launch/run/run_objective.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>

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

/// Of student's layers that are spread over the teacher's, that to whose output layer i comes.
std::int64_t evenly(std::int64_t i, const nn::ModelConfig& student, const nn::ModelConfig& teacher) {
  return (i + 1) * teacher.num_layers / student.num_layers - 1;
}

/// The teacher's layer that the student's layer i was, or that whose output it comes to.
std::int64_t layer_that_it_was(std::int64_t i, const nn::ModelConfig& student, const nn::ModelConfig& teacher,
                               std::span<const std::int64_t> kept) {
  return kept.empty() ? evenly(i, student, teacher) : kept[static_cast<std::size_t>(i)];
}

/// The teacher's layer for each of the student's: as given, or the usual ones.
std::vector<std::int64_t> matched_layers(const char* field, const std::vector<std::int64_t>& given,
                                         const nn::ModelConfig& student, const nn::ModelConfig& teacher,
                                         const std::function<std::int64_t(std::int64_t)>& usual) {
  std::vector<std::int64_t> layers = given;
  for (std::int64_t i = 0; i < student.num_layers && given.empty(); ++i) layers.push_back(usual(i));
  if (std::ssize(layers) != student.num_layers)
    fail_usage("objective.{}.layers has {}, expected one for each of the student's {}", field,
               core::counted(std::ssize(layers), "layer"), student.num_layers);
  for (const std::int64_t layer : layers)
    if (layer < -1 || layer >= teacher.num_layers)
      fail_usage("objective.{}.layers has {}, expected -1 or a layer of the teacher's {}, from 0", field, layer,
                 teacher.num_layers);
  if (std::ranges::count(layers, -1) == std::ssize(layers))
    fail_usage("objective.{}.layers names no layer, expected one or more, or a weight of 0", field);
  return layers;
}

}  // namespace

optim::DistillationOptions distillation_options(const RunConfig& config, std::int64_t step, bool is_sampled) {
  const ObjectiveConfig& c = config.objective;
  const auto steps = static_cast<double>(std::max<std::int64_t>(config.train.steps - 1, 1));
  const double passed = std::clamp(static_cast<double>(step - 1) / steps, 0.0, 1.0);
  const auto between = [&](double first, std::optional<double> last) {
    return last ? first + passed * (*last - first) : first;
  };
  const auto of = [&](double ce_weight, kernels::Divergence divergence, std::optional<double> mix) {
    return optim::DistillationOptions{.ce_weight = ce_weight,
                                      .temperature = between(c.temperature, c.final_temperature),
                                      .divergence = divergence,
                                      .mix = mix.value_or(usual_mix(divergence))};
  };
  if (!is_sampled) return of(between(c.cross_entropy_weight, c.final_cross_entropy_weight), c.divergence, c.mix);
  const SampledTextConfig& said = c.sampled_text.value();
  return of(said.cross_entropy_weight, said.divergence, said.mix);
}

RunObjective::RunObjective(const RunConfig& config, bool has_teacher, bool has_part) : config_(config) {
  if (has_part) {
    auto cached = std::make_unique<optim::CachedDistillation>(cached_options(config, 1));
    cached_ = cached.get();
    objective_ = std::move(cached);
    return;
  }
  if (config.objective.bridge == Bridge::Uld) {
    auto sorted = std::make_unique<optim::SortedDistillation>(distillation_options(config, 1, false).ce_weight);
    sorted_ = sorted.get();
    objective_ = std::move(sorted);
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
  if (sorted_ != nullptr) sorted_->set(distillation_options(config_, step, is_sampled).ce_weight);
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
  return HiddenMatch{.weight = config.weight,
                     .distance = config.distance,
                     .layers = matched_layers("hidden_states", config.layers, student, teacher, [&](std::int64_t i) {
                       if (i + 1 == student.num_layers) return teacher.num_layers - 1;
                       return kept.empty() ? evenly(i, student, teacher) : kept[static_cast<std::size_t>(i + 1)] - 1;
                     })};
}

void check_kept(const HiddenMatch& match, const std::vector<std::int64_t>& kept, const std::string& cache) {
  const std::vector<std::int64_t> asked = match.asked_layers();
  if (!std::ranges::includes(kept, asked))
    fail_usage(
        "objective.hidden_states asks for the teacher's layers {}, expected those that teacher.cache, {}, keeps: {}",
        fmt::join(asked, ", "), cache, fmt::join(kept, ", "));
}

UpdateMatches update_matches(const ObjectiveConfig& config, const nn::ModelConfig& student,
                             const nn::ModelConfig& teacher, std::span<const std::int64_t> kept) {
  const auto match = [&](const char* field, const UpdateMatchConfig& asked) -> std::optional<HiddenMatch> {
    if (asked.weight == 0) return std::nullopt;
    if (student.width != teacher.width)
      fail_usage("objective.{}.weight is {}, expected 0: the student is {} wide, the teacher {}", field, asked.weight,
                 student.width, teacher.width);
    return HiddenMatch{.weight = asked.weight,
                       .distance = asked.distance,
                       .layers = matched_layers(field, asked.layers, student, teacher, [&](std::int64_t i) {
                         return layer_that_it_was(i, student, teacher, kept);
                       })};
  };
  if (config.feed_forward.weight > 0 && !(student.feed_forward && teacher.feed_forward))
    fail_usage("objective.feed_forward.weight is {}, expected 0: the {} has no feed-forwards",
               config.feed_forward.weight, student.feed_forward ? "teacher" : "student");
  return {match(update_names[0], config.attention), match(update_names[1], config.feed_forward)};
}

std::optional<RouterMatch> router_match(const RouterMatchConfig& config, const nn::ModelConfig& student,
                                        const nn::ModelConfig& teacher, std::span<const std::int64_t> kept) {
  if (config.weight == 0) return std::nullopt;
  if (student.moe.num_experts != teacher.moe.num_experts || student.moe.num_experts == 0)
    fail_usage("objective.routers.weight is {}, expected 0: the student has {}, the teacher {}, expected as many",
               config.weight, core::counted(student.moe.num_experts, "expert"), teacher.moe.num_experts);
  const auto have_experts = [&](std::int64_t i, std::int64_t of_teacher) {
    return of_teacher >= 0 && student.is_moe_layer(i) && teacher.is_moe_layer(of_teacher);
  };
  RouterMatch match{.weight = config.weight,
                    .layers = matched_layers("routers", config.layers, student, teacher,
                                             [&](std::int64_t i) {
                                               const std::int64_t own = layer_that_it_was(i, student, teacher, kept);
                                               return have_experts(i, own) ? own : -1;
                                             }),
                    .by_load = config.by_load};
  for (std::int64_t i = 0; i < student.num_layers; ++i)
    if (const std::int64_t of_teacher = match.layers[static_cast<std::size_t>(i)];
        of_teacher >= 0 && !have_experts(i, of_teacher))
      fail_usage("objective.routers.layers has {} for layer {}, expected -1: not both have experts", of_teacher, i);
  return match;
}

}  // namespace limbeck::launch
