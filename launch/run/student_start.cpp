#include "launch/run/student_start.h"

#include <cmath>
#include <functional>
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

/// Those that are known before anything is measured, of a kind if they are not.
nn::ModelConfig config_of_layers(const StudentInitConfig& init, const nn::ModelConfig& teacher) {
  const std::int64_t depth = teacher.num_layers;
  const std::int64_t keep = init.num_layers > 0 ? init.num_layers : depth;
  if (keep > depth) fail_usage("student_init.num_layers is {}, expected at most the teacher's {}", keep, depth);
  if (init.choice == LayerChoice::List) return nn::skip_layers(teacher, init.layers);
  if (init.choice == LayerChoice::EvenlySpaced) return nn::skip_layers(teacher, nn::evenly_spaced_layers(depth, keep));
  const bool mixes_experts = teacher.moe.num_experts > 0 && !teacher.moe.dense_layers.empty();
  const bool mixes_windows = teacher.window > 0 && !teacher.full_layers.empty();
  if (keep < depth && (mixes_experts || mixes_windows))
    fail_usage("student_init.choice is {}, but the teacher mixes layers {}, expected LIST or EVENLY_SPACED",
               init.choice == LayerChoice::GreedyKl ? "GREEDY_KL" : "BLOCK_INFLUENCE",
               mixes_experts ? "that are dense and with experts" : "with a window and without");
  nn::ModelConfig kept = teacher;
  kept.num_layers = keep;
  return kept;
}

}  // namespace

nn::ModelConfig started_config(const StudentInitConfig& init, const nn::ModelConfig& teacher,
                               const std::string& where) {
  nn::ModelConfig config = config_of_layers(init, teacher);
  if (!init.upcycle) return config;
  const UpcycleConfig& u = *init.upcycle;
  nn::check_upcyclable(config, where);
  if (u.slices < 1 || config.mlp_width % u.slices != 0)
    fail_usage("student_init.upcycle.slices is {}, expected a divisor of the teacher's feed-forward width {}", u.slices,
               config.mlp_width);
  return nn::upcycled_config(config, shape_of(u), /*renormalise=*/true);
}

StudentSource::StudentSource(Rank& rank, const StudentInitConfig& init, const nn::Transformer& teacher,
                             const core::StateReader& weights, const CalibrationText& calibration,
                             const nn::ModelConfig& student, std::uint64_t seed)
    : rank_(rank), init_(init), weights_(weights), calibration_(calibration) {
  const std::int64_t depth = teacher.config().num_layers;
  choose_layers(teacher, student.num_layers);
  skipped_ = std::make_unique<nn::LayerSkip>(weights, depth, start_.layers);
  if (!init.upcycle) return;
  nn::ModelConfig dense = nn::skip_layers(teacher.config(), start_.layers);
  dense.num_predict_layers = student.num_predict_layers;
  upcycled_ = std::make_unique<nn::Upcycled>(*skipped_, dense, shape_of(*init.upcycle), /*renormalise=*/true, seed);
  start_.is_exact = upcycled_->is_exact();
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
      const std::vector<nn::Batch> batches = calibration_.batches(init_.greedy_tokens);
      const LayerKl kl(rank_, teacher, batches, calibration_.valid_vocabulary);
      nn::GreedyLayers chosen =
          nn::greedy_layers(teacher, batches, calibration_.longest, keep, std::cref(kl), *rank_.comms().batch);
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
                weights_.source());
  start_.layers = nn::layers_of_greatest_influence(start_.influence, keep);
}

void StudentSource::load(nn::Transformer& student) {
  const core::StateReader& source = upcycled_ ? static_cast<const core::StateReader&>(*upcycled_) : *skipped_;
  while_others_hear(rank_, [&] { student.load(source); });
  if (!upcycled_) return;
  upcycled_->centre_routers(
      nn::mean_router_inputs(student, calibration_.batch(init_.calibration_tokens), *rank_.comms().batch));
  student.load(*upcycled_, ".router.weight");
}

}  // namespace limbeck::launch
