#include "launch/run/training_step.h"

#include <array>
#include <cmath>
#include <utility>

#include "core/exchanges_of.h"
#include "core/ops/made_form.h"
#include "launch/run/clock.h"

namespace limbeck::launch {
namespace {

// What is made once, libraries' plans and the forms of weights that are written with them, is there behind two steps.
constexpr std::int64_t steps_before_recording = 2;

}  // namespace

bool records_steps(const RunConfig& config, const Rank& rank) {
  if (!config.train.cuda_graph) return false;
  if (rank.world().size() > 1)
    core::fail_usage("train.cuda_graph is true, expected one rank for it: {} are running", rank.world().size());
  return !rank.memory()->is_host();
}

TrainingStep::TrainingStep(Rank& rank, const StepModels& models, parallel::GradientSync& sync,
                           optim::Optimizer& optimizer, parallel::SharedValues& values,
                           std::vector<optim::Fragment> trained, const Options& options)
    : rank_(rank),
      models_(models),
      sync_(sync),
      optimizer_(optimizer),
      values_(values),
      trained_(std::move(trained)),
      options_(options) {
  core::check(!options.records || (rank.world().size() == 1 && !rank.memory()->is_host()),
              "step: {} ranks on {} are to record it, expected one on a GPU", rank.world().size(),
              rank.memory()->is_host() ? "CPUs" : "GPUs");
  core::check(!options.records || !options.refuses, "step: it is to be recorded, and refused by its figures");
}

void TrainingStep::queue(const StepInput& input, const StepOptions& options) {
  auto since = Clock::now();
  passes_.emplace(queue_passes(rank_, models_, input, options, sync_));
  times_.passes = lap(since);
  norm_.emplace(trained_, rank_.world(), options_.clip_norm, options_.names, rank_.memory());
  times_.norm = lap(since);
  if (!options_.refuses) queue_update();
}

void TrainingStep::queue_update() {
  auto since = Clock::now();
  optimizer_.queue_step(norm_->factor());  // changes nothing where the norm is not finite
  values_.gather();
  times_.optimizer += lap(since);
}

void TrainingStep::run_recorded(StepInput input, const StepOptions& options) {
  if (recorded_) {
    for (std::size_t i = 0; i < input.batches.size(); ++i) recorded_input_.batches[i].copy_values(input.batches[i]);
    for (std::size_t i = 0; i < input.taught.size(); ++i) {
      const auto to = recorded_input_.taught[i].columns(), from = input.taught[i].columns();
      for (std::size_t c = 0; c < to.size(); ++c) to[c]->copy_from(*from[c]);
    }
    optimizer_.note_step();
    recorded_input_.per_target.copy_from(input.per_target);
  } else {
    passes_.reset();
    norm_.reset();
    recorded_input_ = std::move(input);
    // A form of a weight that is valid now would not be made by what is recorded, and never again.
    for (const optim::Fragment& f : trained_) core::forget_made(f.parameter->value);
    recorded_.emplace(rank_.memory(), [&] { queue(recorded_input_, options); });
  }
  recorded_->run();
}

/// Of all ranks, but for the wait, which is this rank's; of a pipeline its last stage's, which alone reads.
CachedTeacher::Figures TrainingStep::cache_figures() {
  const CachedTeacher::Figures figures = models_.cached->take_figures();
  const std::array<double, 3> own = {figures.kept_mass, figures.tokens, figures.wait_seconds};
  core::Tensor sums = core::Tensor::from<double>(rank_.host_memory(), {3}, own), of_data = sums.rows(0, 2);
  const core::ExchangesOf scope("what was read of the teacher's cache");
  rank_.mesh().data().all_reduce(of_data, core::Reduce::Sum);
  rank_.pipeline().sum(sums);
  return {
      .wait_seconds = sums.data<double>()[2], .kept_mass = sums.data<double>()[0], .tokens = sums.data<double>()[1]};
}

/// Of this rank, of a pipeline its last stage's, which alone asks.
double TrainingStep::teacher_wait() {
  const double own = models_.remote != nullptr ? models_.remote->take_wait_seconds() : 0;
  core::Tensor sum = core::Tensor::from<double>(rank_.host_memory(), {1}, {&own, 1});
  const core::ExchangesOf scope("seconds that the teacher was waited for");
  rank_.pipeline().sum(sum);
  return core::host_value(sum);
}

TrainingStep::Done TrainingStep::run(const StepText& samples, const StepOptions& options, double rate) {
  auto since = Clock::now();
  times_ = {};
  StepInput input = read_input(recorded_ ? rank_.host_memory() : rank_.memory(), rank_, samples, options.micro_batches,
                               models_, options.watch.finite);
  const double text_seconds = input.text_seconds, teacher_seconds = input.teacher_seconds;
  if (options_.records)
    for (nn::Batch& batch : input.batches) batch.forget_values();
  optimizer_.begin_step(rate);
  if (options_.records && num_queued_ >= steps_before_recording) {
    run_recorded(std::move(input), options);
    times_ = {.passes = lap(since) - text_seconds};
  } else {
    queue(input, options);
    times_.passes += teacher_seconds;
    ++num_queued_;
  }
  times_.text = text_seconds;
  // All that the host asks of a step, once all of it is queued.
  since = Clock::now();
  passes_->start_reading();
  norm_->start_reading();
  core::NotesCopy notes(rank_.memory());
  Done done{passes_->read(), norm_->values(), {}};
  notes.check();
  if (models_.cached != nullptr) done.result.cache = cache_figures();
  if (rank_.teacher_ranks() != nullptr) done.result.teacher_wait_seconds = teacher_wait();
  times_.optimizer += lap(since);
  if (options_.refuses) {
    done.refused = options_.refuses(done.result.loss(), done.norm.norm);
    if (done.refused.empty()) queue_update();
  }
  done.times = times_;
  return done;
}

void TrainingStep::Done::check(std::int64_t step) const {
  const double loss = result.loss();
  std::string matched;  // those parts that there are
  for (const auto& [name, value] : {std::pair("further tokens", result.predict.empty() ? 0 : result.predict_loss()),
                                    {"hidden states", result.hidden},
                                    {"attention", result.updates[0]},
                                    {"feed-forwards", result.updates[1]},
                                    {"routing", result.routing}})
    if (value != 0) matched += fmt::format("{} {}, ", name, value);
  if (!std::isfinite(loss))
    throw StepFailed(fmt::format("loss is not finite at step {}: objective {}, {}balance {}, z {}{}", step,
                                 result.objective, matched, result.balance, result.z,
                                 norm.not_finite.empty() ? "" : "; so is the gradient of " + norm.not_finite));
  if (!norm.not_finite.empty())
    throw StepFailed(fmt::format("gradient of {} is not finite at step {}", norm.not_finite, step));
}

}  // namespace limbeck::launch
