#include "launch/run/step.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "core/exchanges_of.h"
#include "core/slice.h"
#include "launch/run/clock.h"
#include "launch/run/cut_sequences.h"
#include "launch/run/micro_pass.h"
#include "launch/run/read_tokens.h"
#include "launch/run/relaid_teacher.h"
#include "launch/run/stage_teaching.h"

namespace limbeck::launch {
namespace {

using core::Tensor;
using parallel::ActionKind;
using parallel::PipelineAction;

/// The sequences of the step that this rank reads in one of its passes.
core::Slice slice_of_pass(const Rank& rank, const StepText& samples, std::int64_t micro, std::int64_t micro_batches) {
  const core::Comm& dp = rank.mesh().dp();
  return sequences_of_pass(samples.num_sequences, dp.rank(), dp.size(), micro, micro_batches);
}

/// Whether any of the models has layers of Mamba-2, which go along sequences.
bool goes_along_sequences(const StepModels& models) {
  const auto has_any = [](const nn::Transformer* model) {
    return model != nullptr && model->config().num_mamba_layers() > 0;
  };
  return has_any(&models.student) || has_any(models.teacher) ||
         (models.others != nullptr && std::ranges::any_of(models.others->teachers, has_any, [](const auto& other) {
            return other.model.get();
          }));
}

}  // namespace

std::vector<std::int64_t> HiddenMatch::asked_layers() const {
  std::set<std::int64_t> asked(layers.begin(), layers.end());
  asked.erase(-1);
  return {asked.begin(), asked.end()};
}

std::vector<data::TokenBatch> batches_of(const Rank& rank, const StepText& samples, std::int64_t micro_batches,
                                         bool are_whole) {
  std::vector<data::TokenBatch> batches;
  for (std::int64_t micro = 0; micro < micro_batches; ++micro) {
    const auto [first, count] = slice_of_pass(rank, samples, micro, micro_batches);
    batches.push_back(cut_of(samples.fetch(first, count), are_whole ? nn::ContextPlace() : rank.context_place()));
  }
  return batches;
}

StepInput read_input(const core::MemoryPtr& memory, const Rank& rank, const StepText& samples,
                     std::int64_t micro_batches, const StepModels& models, core::FiniteWatch* watch) {
  core::check(
      samples.num_targets > 0,
      "step: none of the {} tokens has a target, expected documents of two tokens or more, of conversations more "
      "sequences a step, so that each has part of a reply",
      samples.num_tokens);
  auto since = Clock::now();
  const bool reads_cache = models.cached != nullptr && rank.is_last_stage(),
             has_parts = reads_cache && !models.cached->is_whole(), with_runs = goes_along_sequences(models);
  StepInput input;
  const double per_target = 1 / static_cast<double>(samples.num_pairs > 0 ? samples.num_pairs : samples.num_targets);
  input.per_target = Tensor::from<double>(memory, {1}, {&per_target, 1});
  for (std::int64_t micro = 0; micro < micro_batches; ++micro) {
    const auto [first, count] = slice_of_pass(rank, samples, micro, micro_batches);
    const data::TokenBatch whole = samples.fetch(first, count);
    data::TokenBatch mine = cut_of(whole, rank.context_place());
    if (has_parts) input.taught.push_back(models.cached->take(memory, mine));
    if (models.remote != nullptr) input.answers.push_back(models.remote->take(whole));
    if (models.bridge != nullptr && rank.is_last_stage()) input.bridged.push_back(models.bridge->read(memory, mine));
    if (models.others != nullptr) input.shares.push_back(models.others->shares_of(memory, mine, 0, count));
    nn::Batch& batch = input.batches.emplace_back(
        make_batch(memory, whole, 0, count, first, models.student.num_predictors(), rank.context_place(), with_runs));
    if (reads_cache && !has_parts) input.texts.push_back(std::move(mine));
    batch.global_sequences = static_cast<double>(samples.num_sequences);
    batch.global_tokens = static_cast<double>(samples.num_tokens);
  }
  input.text_seconds = lap(since);
  if (models.relaid != nullptr) input.answers = models.relaid->read(samples, micro_batches, watch);
  input.teacher_seconds = lap(since);
  return input;
}

namespace {

/// For how long a stage waits for what may be on its way, which wants a processor too, before it makes gradients of
/// weights meanwhile: at first, and then after each of them.
constexpr std::chrono::microseconds on_its_way{3000}, between_parts{500};

/// What the passes of a step run in, one after the other, as a schedule says.
class StepRun {
 public:
  StepRun(const StepContext& step, parallel::GradientSync& sync, const parallel::PipelineSchedule& schedule)
      : step_(step),
        sync_(sync),
        stages_(step.rank.pipeline()),
        to_come_(schedule.stages.at(static_cast<std::size_t>(stages_.rank()))),
        sums_each_pass_(sync.sums_each_pass() && schedule.num_stages() == 1),
        most_sent_(std::ranges::max(parallel::peak_activations(schedule))),
        last_batch_(schedule.num_micro_batches - 1),
        fills_waits_(can_fill_waits(step)),
        ledger_(final_of(sums_each_pass_ ? 1 : schedule.num_micro_batches)) {
    if (schedule.num_stages() > 1 && matches_layers(step.options)) teaching_.emplace(step_, *step.options.pipeline);
  }
  StepRun(const StepRun&) = delete;
  StepRun& operator=(const StepRun&) = delete;

  void run() {
    for (; !to_come_.empty(); to_come_ = to_come_.subspan(1)) {
      const PipelineAction& action = to_come_.front();
      if (action.kind == ActionKind::Forward)
        forward(action);
      else if (action.kind != ActionKind::WeightGradient)
        backward(action);
      if (action.kind == ActionKind::InputGradient) weights_left_.insert(of(action));
      if (action.kind == ActionKind::Forward || action.kind == ActionKind::InputGradient) continue;
      const core::ExchangesOf scope("micro-batch", action.micro_batch, "backward");
      under_way_.at(of(action))->run_weight_parts();
      under_way_.erase(of(action));
      weights_left_.erase(of(action));
    }
  }

 private:
  using Place = std::pair<int, int>;
  using Kind = nn::PipelineComm::Kind;
  static Place of(const PipelineAction& action) { return {action.micro_batch, action.chunk}; }
  std::int64_t stage_before() const { return (stages_.rank() + stages_.size() - 1) % stages_.size(); }
  std::int64_t stage_behind() const { return (stages_.rank() + 1) % stages_.size(); }

  /// Not where a weight part waits for other ranks (copies of experts), which would have to be at the same one; nor
  /// where a tied head's gradient, which a forward makes, and a predictor's embedding's come into one sum; nor before a
  /// device's queue, where no host sees what is late.
  static bool can_fill_waits(const StepContext& step) {
    const nn::Transformer& student = step.models.student;
    const bool adds_to_head = student.has_head() && student.config().tied_head && student.num_predictors() > 0;
    return step.options.replicated.empty() && !adds_to_head && !step.rank.memory()->has_queue();
  }

  core::GradientLedger final_of(std::int64_t num_tapes) {
    return {num_tapes, [this](core::Parameter& p) { sync_.parameter_final(p); }};
  }

  void forward(const PipelineAction& action) {
    const core::ExchangesOf scope("micro-batch", action.micro_batch, "forward");
    if (action.micro_batch > 0 && sums_each_pass_) {
      sync_.next_pass();
      ledger_ = final_of(1);
    }
    auto& pass = under_way_[of(action)];
    pass = std::make_unique<MicroPass>(step_, action.micro_batch, action.chunk, ledger_);
    if (teaching_) pass->set_taught(teaching_->take(action.micro_batch, action.chunk));
    Tensor before;
    if (!pass->is_first()) receive(Kind::Stream, before = pass->empty_stream(), stage_before());
    if (teaching_) teaching_->note_stream(action.micro_batch, action.chunk);
    const Tensor behind = pass->forward(before);
    if (!pass->is_last()) send(Kind::Stream, behind, stage_behind());
  }

  void backward(const PipelineAction& action) {
    const core::ExchangesOf scope("micro-batch", action.micro_batch, "backward");
    const std::unique_ptr<MicroPass>& pass = under_way_.at(of(action));
    Tensor behind;
    if (!pass->is_last()) receive(Kind::Gradient, behind = pass->empty_stream(), stage_behind());
    const Tensor before = pass->backward(behind);
    if (!pass->is_first()) send(Kind::Gradient, before, stage_before());
  }

  /// Until it has come gradients of weights are made that the schedule has later: so a stage that is late keeps the
  /// others waiting only once they have nothing left to do.
  void receive(Kind kind, const Tensor& x, std::int64_t from) {
    core::CommHandle coming = stages_.start_receiving(kind, x, from);
    if (fills_waits_ && !coming.wait_for(on_its_way))
      while (run_next_weight_part() && !coming.wait_for(between_parts)) {
      }
    coming.wait();
  }

  /// A layer's of the next in the schedule's order, in which each parameter's gradient is summed: so bits do not depend
  /// on who was late. Nor does where reductions of gradients start between other collectives: those of the last
  /// micro-batch, behind which they are final, stay where the schedule has them. False: nothing can be made yet.
  bool run_next_weight_part() {
    for (const PipelineAction& action : to_come_) {
      if (action.kind == ActionKind::Backward) return false;
      if (action.kind != ActionKind::WeightGradient) continue;
      if (action.micro_batch == last_batch_ || !weights_left_.contains(of(action))) return false;
      if (under_way_.at(of(action))->run_next_weight_part()) return true;
    }
    return false;
  }

  // Of the streams that a stage has sent, all but as many as it holds passes have come back as gradients; and all but
  // as many as the stage before holds of the gradients that it is sent have been taken there, or the streams of these
  // passes would not have come. So what is let go of here has been taken, whatever the schedule.
  void send(Kind kind, const Tensor& x, std::int64_t to) {
    std::deque<core::CommHandle>& sent = sent_[kind];
    sent.push_back(stages_.send(kind, x, to));
    if (std::ssize(sent) > most_sent_) sent.pop_front();
  }

  StepContext step_;
  parallel::GradientSync& sync_;
  nn::PipelineComm& stages_;
  std::span<const PipelineAction> to_come_;  // from the one that is run on
  bool sums_each_pass_;  // of the stages of a pipeline several are under way, whose gradients lie in one bucket
  int most_sent_;
  int last_batch_;
  bool fills_waits_;  // with gradients of weights
  core::GradientLedger ledger_;
  std::optional<StageTeaching> teaching_;  // where layers on other stages than the teacher's are held to its own
  std::map<Place, std::unique_ptr<MicroPass>> under_way_;
  std::set<Place> weights_left_;  // whose inputs' gradients are made
  std::map<Kind, std::deque<core::CommHandle>> sent_;  // that may not have been taken
};

bool leaves_weights(const parallel::PipelineSchedule& schedule) {
  return std::ranges::any_of(schedule.stages, [](const auto& actions) {
    return std::ranges::count(actions, ActionKind::WeightGradient, &PipelineAction::kind) > 0;
  });
}

}  // namespace

core::Tape::WeightParts weight_parts_of(const Rank& rank, const parallel::PipelineSchedule& schedule,
                                        const StepOptions& options) {
  using enum core::Tape::WeightParts;
  if (leaves_weights(schedule)) return Queued;
  const bool exchanges_rows = rank.mesh().experts_group()->size() > 1 && rank.memory()->has_queue();
  return options.delay_weight_parts || rank.comms().tensor->size() > 1 || exchanges_rows ? InWaits : AtOnce;
}

QueuedPasses queue_passes(Rank& rank, const StepModels& models, const StepInput& input, const StepOptions& options,
                          parallel::GradientSync& sync) {
  core::check(options.preference_beta == 0 || (models.teacher != nullptr && models.student.num_depths() == 0),
              "step: of preferences, with {} and {} layers that predict further tokens, expected a reference and none",
              models.teacher != nullptr ? "a reference" : "no reference", models.student.num_depths());
  core::check(options.reward.has_value() == models.student.config().reward_head,
              "step: of a model {} a reward head, {}, expected both or neither",
              models.student.config().reward_head ? "with" : "without",
              options.reward ? "by rewards" : "not by rewards");
  const int num_batches = static_cast<int>(input.batches.size());
  std::optional<parallel::PipelineSchedule> usual;
  if (options.pipeline == nullptr) usual = parallel::make_schedule(parallel::ScheduleKind::OneFOneB, 1, 1, num_batches);
  const parallel::PipelineSchedule& schedule = usual ? *usual : options.pipeline->schedule;
  core::check(schedule.num_micro_batches == num_batches && schedule.num_stages() == rank.pipeline().size() &&
                  schedule.num_chunks == models.student.num_chunks(),
              "step: a schedule of {} micro-batches, {} stages and {} chunks for {}, {} and {}",
              schedule.num_micro_batches, schedule.num_stages(), schedule.num_chunks, num_batches,
              rank.pipeline().size(), models.student.num_chunks());
  StepSums sums(rank, models.student);
  sync.begin_step();
  const core::Tape::WeightParts weight_parts = weight_parts_of(rank, schedule, options);
  StepRun({rank, models, input, options, sums, weight_parts}, sync, schedule).run();
  sync.finish();
  if (options.watch.gradients) options.watch.gradients();
  sums.gather(rank);
  const Bridge bridge = models.bridge != nullptr ? options.bridge : Bridge::None;
  return {sums.all, sums.load.start_sum_over(rank), bridge, options.bridge_ce_weight};
}

double StepResult::predict_loss() const {
  double sum = 0;
  for (const core::LossStatistics& depth : predict) sum += depth.loss;
  return sum;
}

double StepResult::loss() const {
  return objective + predict_loss() + hidden + std::accumulate(updates.begin(), updates.end(), routing) + balance + z;
}

void QueuedPasses::start_reading() {
  copy_.emplace(sums_);
  load_.start_reading();
}

StepResult QueuedPasses::read() {
  if (!copy_) start_reading();
  const std::span<const double> sums = copy_->get<double>();
  StepResult result;
  result.head = core::LossStatistics(sums);
  result.objective = result.head.loss;
  result.balance = sums[StepSums::balance];
  result.z = sums[StepSums::z];
  result.balance_square = sums[StepSums::balance_square];
  result.z_square = sums[StepSums::z_square];
  result.hidden = sums[StepSums::hidden];
  if (const auto pairs = sums.subspan(StepSums::of_preferences, kernels::num_preference_columns);
      pairs[kernels::PreferencePairs] > 0) {
    result.preference.emplace(pairs);
    result.objective = result.preference->loss;
  }
  if (bridge_ == Bridge::Spans) {
    const auto spans = sums.subspan(StepSums::of_spans, kernels::num_span_columns);
    result.spans.emplace(spans, result.head.tokens);
    result.objective += (1 - bridge_ce_weight_) * spans[kernels::SpanLoss] / result.head.tokens;
  }
  if (bridge_ == Bridge::Uld) {
    const auto pairs = sums.subspan(StepSums::of_pairs, kernels::num_sorted_columns);
    result.sorted.emplace(pairs, result.head.tokens);
    result.objective += (1 - bridge_ce_weight_) * pairs[kernels::SortedDistance] / result.head.tokens;
  }
  result.hidden_square = sums[StepSums::hidden_square];
  std::ranges::copy(sums.subspan(StepSums::updates, nn::num_blocks), result.updates.begin());
  std::ranges::copy(sums.subspan(StepSums::update_squares, nn::num_blocks), result.update_squares.begin());
  result.routing = sums[StepSums::routing];
  result.routing_square = sums[StepSums::routing_square];
  for (std::size_t at = StepSums::of_predictions; at < sums.size(); at += kernels::num_loss_totals)
    result.predict.emplace_back(sums.subspan(at, kernels::num_loss_totals));
  auto [assignments, untaken] = load_.read();
  result.expert_load = std::move(assignments);
  result.untaken = std::move(untaken);
  return result;
}

StepResult forward_backward(Rank& rank, const StepModels& models, const StepText& samples, const StepOptions& options,
                            parallel::GradientSync& sync) {
  const StepInput input =
      read_input(rank.memory(), rank, samples, options.micro_batches, models, options.watch.finite);
  return queue_passes(rank, models, input, options, sync).read();
}

}  // namespace limbeck::launch
