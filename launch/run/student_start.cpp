#include "launch/run/student_start.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>
#include <utility>

#include "core/nn/student/influence.h"
#include "core/nn/student/router_inputs.h"
#include "launch/run/layer_kl.h"

namespace limbeck::launch {

using core::fail_usage;

namespace {

nn::UpcycleShape shape_of(const UpcycleConfig& c) {
  return {.slices = c.slices,
          .experts = c.experts,
          .experts_per_token = c.experts_per_token,
          .router_deviation = c.router_std,
          .shared_slices = c.shared_slices,
          .shared_gate = c.shared_gate};
}

std::int64_t dense_experts(const StudentInitConfig& init, const nn::ModelConfig& teacher) {
  return init.dense->experts > 0 ? init.dense->experts : teacher.moe.experts_per_token;
}

std::vector<std::int64_t> members_of(const nn::ExpertGroup& group) {
  std::vector<std::int64_t> members;
  for (const nn::ExpertShare& member : group) members.push_back(member.expert);
  return members;
}

std::vector<nn::ExpertGroup> groups_of(const nn::ExpertUse& use, const ExpertStartConfig& c) {
  if (c.rule == ExpertRule::Merge) return nn::merged_experts(use, c.keep);
  if (c.rule == ExpertRule::Load) return nn::pruned_experts(use.load, c.keep);
  std::vector<double> norms;
  for (std::int64_t e = 0; e < use.num_experts(); ++e) norms.push_back(use.routed_norm(e));
  return nn::pruned_experts(norms, c.keep);
}

/// Of one layer or of the stream, the part of the sum that lies at `kept`; nothing where all or nothing is.
std::optional<double> share_of(const std::vector<double>& activity, const std::vector<std::int64_t>& kept) {
  const double all = std::accumulate(activity.begin(), activity.end(), 0.0);
  if (kept.empty() || all <= 0) return std::nullopt;
  double sum = 0;
  for (const std::int64_t i : kept) sum += activity[static_cast<std::size_t>(i)];
  return sum / all;
}

/// The mean of those of the layers.
std::optional<double> share_of(const std::vector<std::vector<double>>& activity,
                               const std::vector<std::vector<std::int64_t>>& kept) {
  double sum = 0;
  int layers = 0;
  for (std::size_t i = 0; i < kept.size(); ++i)
    if (const std::optional<double> share = share_of(activity[i], kept[i])) sum += *share, ++layers;
  return layers > 0 ? std::optional(sum / layers) : std::nullopt;
}

/// Those that are known before anything is measured, of a kind if they are not.
nn::ModelConfig config_of_layers(const StudentInitConfig& init, const nn::ModelConfig& teacher) {
  const std::int64_t depth = teacher.num_layers;
  const std::int64_t keep = init.num_layers > 0 ? init.num_layers : depth;
  if (keep > depth) fail_usage("student_init.num_layers is {}, expected at most the teacher's {}", keep, depth);
  if (init.choice == LayerChoice::List) return nn::skip_layers(teacher, init.layers);
  if (init.choice == LayerChoice::EvenlySpaced) return nn::skip_layers(teacher, nn::evenly_spaced_layers(depth, keep));
  const bool mixes_experts = teacher.moe.num_experts > 0 && !teacher.moe.dense_layers.empty() && !init.dense;
  const bool mixes_windows = teacher.window > 0 && !teacher.full_layers.empty();
  const bool mixes_mixers = teacher.has_attention() && teacher.num_mamba_layers() > 0;
  if (keep < depth && (mixes_experts || mixes_windows || mixes_mixers))
    fail_usage("student_init.choice is {}, but the teacher mixes layers {}, expected LIST or EVENLY_SPACED",
               init.choice == LayerChoice::GreedyKl ? "GREEDY_KL" : "BLOCK_INFLUENCE",
               mixes_experts   ? "that are dense and with experts"
               : mixes_windows ? "with a window and without"
                               : "of attention and of Mamba-2");
  nn::ModelConfig kept = teacher;
  kept.num_layers = keep;
  return kept;
}

}  // namespace

nn::ModelConfig started_config(const StudentInitConfig& init, const nn::ModelConfig& teacher,
                               const std::string& where) {
  nn::ModelConfig config = config_of_layers(init, teacher);
  if (init.experts)
    config = nn::fewer_experts_config(config, init.experts->keep, init.experts->experts_per_token, where);
  if (init.dense) config = nn::dense_from_experts_config(config, dense_experts(init, teacher), where);
  if (init.width)
    config = nn::narrower_config(config, init.width->mlp_width, init.width->num_kv_heads, init.width->width, where);
  if (!init.upcycle) return config;
  const UpcycleConfig& u = *init.upcycle;
  nn::check_upcyclable(config, where);
  if (u.slices < 1 || config.mlp_width % u.slices != 0)
    fail_usage("student_init.upcycle.slices is {}, expected a divisor of the {} feed-forward width {}", u.slices,
               init.width && init.width->mlp_width > 0 ? "narrower" : "teacher's", config.mlp_width);
  return nn::upcycled_config(config, shape_of(u), /*renormalise=*/true);
}

bool runs_teacher(const StudentInitConfig& init) {
  return init.experts || init.dense || init.width || init.choice == LayerChoice::BlockInfluence ||
         init.choice == LayerChoice::GreedyKl;
}

template <class Reader, class... Arguments>
Reader& StudentSource::add_reader(Arguments&&... arguments) {
  const core::StateReader& source = readers_.empty() ? teacher_weights_ : *readers_.back();
  auto reader = std::make_unique<Reader>(source, std::forward<Arguments>(arguments)...);
  Reader& added = *reader;
  readers_.push_back(std::move(reader));
  return added;
}

StudentSource::StudentSource(Rank& rank, const StudentInitConfig& init, nn::Transformer& teacher,
                             const core::StateReader& weights, CalibrationText calibration,
                             const nn::ModelConfig& student, std::uint64_t seed)
    : rank_(rank), init_(init), teacher_weights_(weights), calibration_(std::move(calibration)) {
  const std::int64_t depth = teacher.config().num_layers;
  choose_layers(teacher, student.num_layers);
  add_reader<nn::LayerSkip>(depth, start_.layers);
  nn::ModelConfig config = nn::skip_layers(teacher.config(), start_.layers);
  if (init.experts || init.dense) choose_experts(teacher, config);
  if (init.width) choose_parts(teacher, config);
  if (!init.upcycle) return;
  config.num_predict_layers = student.num_predict_layers;
  upcycled_ = &add_reader<nn::Upcycled>(config, shape_of(*init.upcycle), /*renormalise=*/true, seed);
  start_.is_exact = upcycled_->is_exact();
}

void StudentSource::choose_experts(nn::Transformer& teacher, nn::ModelConfig& config) {
  const nn::Batch batch = calibration_.batch(init_.calibration_tokens);
  const std::vector<nn::ExpertUse> use = nn::expert_use(teacher, batch, *rank_.comms().batch, start_.layers);
  if (init_.experts) {
    std::vector<std::vector<nn::ExpertGroup>> groups;
    for (const nn::ExpertUse& of_layer : use) {
      groups.push_back(of_layer.num_experts() > 0 ? groups_of(of_layer, *init_.experts)
                                                  : std::vector<nn::ExpertGroup>());
      start_.experts.emplace_back();
      std::ranges::transform(groups.back(), std::back_inserter(start_.experts.back()), members_of);
    }
    config = nn::fewer_experts_config(config, init_.experts->keep, init_.experts->experts_per_token,
                                      teacher_weights_.source());
    add_reader<nn::FewerExperts>(std::move(groups));
    return;
  }
  const std::int64_t keep = dense_experts(init_, teacher.config());
  std::vector<nn::DenseMixture> mixtures;
  for (const nn::ExpertUse& of_layer : use) {
    const bool has_experts = of_layer.num_experts() > 0;
    mixtures.push_back(has_experts ? nn::dense_mixture(of_layer, keep, config.moe.shared_gate) : nn::DenseMixture());
    start_.experts.emplace_back();
    if (has_experts) start_.experts.back().push_back(members_of(mixtures.back().experts));
  }
  add_reader<nn::DenseFromExperts>(config, std::move(mixtures));
  config = nn::dense_from_experts_config(config, keep, teacher_weights_.source());
}

void StudentSource::choose_parts(const nn::Transformer& teacher, nn::ModelConfig& config) {
  const WidthStartConfig& wanted = *init_.width;
  const nn::Activity activity =
      nn::activity_of(teacher, calibration_.batch(init_.calibration_tokens), *rank_.comms().batch, start_.layers);
  nn::KeptParts kept = activity.most_active(wanted.mlp_width, wanted.num_kv_heads, wanted.width);
  start_.activity = {.neurons = share_of(activity.neurons, kept.neurons),
                     .kv_heads = share_of(activity.kv_heads, kept.kv_heads),
                     .channels = share_of(activity.channels, kept.channels)};
  config = add_reader<nn::Narrower>(config, std::move(kept)).model_config();
}

void StudentSource::choose_layers(const nn::Transformer& teacher, std::int64_t keep) {
  const std::int64_t depth = teacher.config().num_layers;
  switch (init_.choice) {
    case LayerChoice::List:
      start_.layers = init_.layers;
      return;
    case LayerChoice::EvenlySpaced:
      start_.layers = nn::evenly_spaced_layers(depth, keep);
      return;
    case LayerChoice::GreedyKl: {
      const StagedBatches text = calibration_.staged(init_.greedy_tokens);
      const LayerKl kl(rank_, teacher, text.batches, calibration_.valid_vocabulary);
      nn::GreedyLayers chosen =
          nn::greedy_layers(teacher, {text.batches, text.stages}, keep, std::cref(kl), *rank_.comms().batch);
      start_.layers = std::move(chosen.kept);
      start_.dropped = std::move(chosen.dropped);
      return;
    }
    case LayerChoice::BlockInfluence:
      break;
  }
  start_.influence = nn::block_influence(teacher, calibration_.batch(init_.calibration_tokens), *rank_.comms().batch);
  for (const double influence : start_.influence)
    core::check(std::isfinite(influence), "the teacher, {}, gives hidden states that are not finite",
                teacher_weights_.source());
  start_.layers = nn::layers_of_greatest_influence(start_.influence, keep);
}

void StudentSource::load(nn::Transformer& student) {
  while_others_hear(rank_, [&] { student.load(weights()); });
  if (upcycled_ == nullptr) return;
  upcycled_->centre_routers(
      nn::mean_router_inputs(student, calibration_.batch(init_.calibration_tokens), *rank_.comms().batch));
  student.load(*upcycled_, ".router.weight");
}

}  // namespace limbeck::launch
