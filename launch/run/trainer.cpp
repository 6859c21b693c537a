#include "launch/run/trainer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/counted.h"
#include "core/device/index_check.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/report/event_file.h"
#include "launch/run/available_memory.h"
#include "launch/run/clock.h"
#include "launch/run/evaluation_json.h"
#include "launch/run/expert_load.h"
#include "launch/run/machine_peak.h"
#include "launch/run/model_source.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/run_settings.h"
#include "launch/run/threads.h"
#include "parallel/comm/engine.h"

namespace limbeck::launch {
namespace {

using core::check;

/// A layer's load of `chosen` assignments; its experts' counts too where `is_whole`. `untaken`: the share of the tokens
/// that no expert took, where there may be some.
nlohmann::ordered_json load_to_json(std::int64_t layer, const std::vector<double>& assignments, double chosen,
                                    std::optional<double> untaken, bool is_whole) {
  const ExpertLoad load = expert_load(assignments, chosen);
  nlohmann::ordered_json json = {{"layer", layer},
                                 {"min", load.min},
                                 {"max", load.max},
                                 {"entropy", load.entropy},
                                 {"drops", static_cast<std::int64_t>(load.drops)}};
  if (untaken) json["untaken"] = *untaken;
  if (is_whole) json["assignments"] = std::vector<std::int64_t>(assignments.begin(), assignments.end());
  return json;
}

std::optional<AdapterState> adapter_state(const Session& session) {
  if (!session.adapters) return std::nullopt;
  const nn::AdapterOptions& options = session.adapters->options();
  return AdapterState{options.rank, options.alpha, session.base.path, session.base.fingerprint};
}

std::string quantised_as(const PrecisionConfig& precision) {
  return precision.quantised_weights == QuantisedWeights::None ? "" : name_of(precision.quantised_weights).name;
}

StepsPosition position_of(const TrainerState& state, const RunConfig& config) {
  return {state.step, state.next_sample / config.batch.sequences_per_step - state.step, state.guard, state.said};
}

double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024); }

}  // namespace

Trainer::Trainer(Session& session, RunDirectory& directory, Log log, RunEvaluations& evaluations)
    : session_(session),
      directory_(directory),
      log_(std::move(log)),
      evaluations_(evaluations),
      steps_(session, log_),
      footprint_(session.rank) {
  const std::int64_t s = session.config.data.sequence_length;
  const nn::ModelConfig& student = session.student->config();
  const double more =
      experts_a_token(session.config.routing, student.moe) - static_cast<double>(student.moe.experts_per_token);
  flops_per_token_ = nn::training_flops_per_token(student, s) + 3 * more * nn::forward_flops_per_expert(student);
  if (session.bridge)  // as if its tokens were as many as the student's
    flops_per_token_ += nn::forward_flops_per_token(session.bridge->teacher().config(), s);
  if (session.teacher && (!session.runs_elsewhere() || session.relaid_teacher)) {
    const nn::ModelConfig& teacher = session.teacher->config();
    const std::int64_t heads = session.student->config().num_predict_layers;  // beside the one of its pass
    flops_per_token_ += nn::forward_flops_per_token(teacher, s) +
                        2.0 * static_cast<double>(heads) * static_cast<double>(teacher.vocabulary * teacher.width);
    if (session.others)  // as if each ran over all of the text
      for (const OtherTeachers::One& other : session.others->teachers)
        flops_per_token_ += nn::forward_flops_per_token(other.model->config(), s);
  }
  const double own_peak = measure_peak_flops(session.rank.memory(), threads_of_rank(session.config.train.threads),
                                             session.config.precision.compute);
  core::Tensor peak = core::Tensor::from<double>(session.rank.host_memory(), {1}, {&own_peak, 1});
  session.rank.world().all_reduce(peak, core::Reduce::Sum);
  peak_flops_ = core::host_value(peak);
  log_->debug("measured peak of all ranks: {:.1f} GFLOP/s; a token costs {:.2f} MFLOP", peak_flops_ / 1e9,
              flops_per_token_ / 1e6);
}

void Trainer::save(Saves& saves, bool beside_steps) {
  saves.finish();  // the one before
  note_finished(saves);
  // What no load takes is not saved over what one does.
  for (const core::Parameter* p : steps_.all_parameters()) {
    const core::Tensor values = steps_.values_here(*p).in(session_.rank.host_memory());
    core::check(core::first_not_finite(values) == values.numel(),
                "step {}: {} holds NaN or an infinity after the optimizer's step: nothing is saved", steps_done(),
                p->name);
  }
  const StepsPosition position = steps_.position();
  const std::optional<ExpertPlacement>& placement = steps_.placement();
  const TrainerState where{
      .step = position.step,
      .next_sample = (position.step + position.passed_over) * session_.config.batch.sequences_per_step,
      .tokens = tokens_seen_,
      .run_config = to_textproto(session_.config),
      .text = session_.text_fingerprint,
      .teacher = session_.teacher_fingerprint,
      .layers = session_.start.layers,
      .best = best_,
      .adapters = adapter_state(session_),
      .replicated = steps_.replicated(),
      .expert_order = placement ? placement->orders() : ExpertPlacement::Orders(),
      .expert_counts = placement ? placement->counts() : ExpertPlacement::Counts(),
      .quantised_as = quantised_as(session_.config.precision),
      .expert_choice = session_.config.routing.expert_choice,
      .choice_kl = choice_kl_,
      .guard = position.guard,
      .said = position.said};
  data::Keep keep{.newest = static_cast<int>(session_.config.train.keep_checkpoints),
                  .every_steps = session_.config.train.keep_every_steps,
                  .damaged = std::move(damaged_)};
  if (best_) keep.best_step = best_->step;
  steps_.in_model_order([&] {
    core::StateDict state = steps_.state();
    beside_steps = beside_steps && may_copy(state);
    saves.begin({.checkpoints = directory_.checkpoints(),
                 .step = steps_done(),
                 .state = std::move(state),
                 .extra = checkpoint_extra(session_.student->config(), *session_.tokenizer, launch::to_json(where)),
                 .keep = std::move(keep)},
                beside_steps);
    damaged_.clear();
    if (!beside_steps) saves.finish();
  });
  note_finished(saves);
}

/// Whether there is room for a copy on every rank; where the system kills who takes too much, it says nothing.
bool Trainer::may_copy(const core::StateDict& state) {
  if (may_copy_) return *may_copy_;
  const std::int64_t bytes = StateCopy::bytes_of(state) * cores_of_rank().ranks, available = available_memory();
  const bool fits = available == 0 || bytes <= available;
  const std::string lacks =
      fits ? "" : fmt::format("{:.0f} MiB of memory are left, for copies of {:.0f}", mib(available), mib(bytes));
  const std::vector<std::string> of_ranks = gather_strings(session_.rank, lacks);
  const auto first = std::ranges::find_if(of_ranks, [](const std::string& rank) { return !rank.empty(); });
  may_copy_ = first == of_ranks.end();
  if (!*may_copy_)
    log_->warn("{}: steps wait while a checkpoint is written, as by train.save_in_background: false", *first);
  return *may_copy_;
}

void Trainer::note_finished(Saves& saves) {
  const auto finished = saves.take_finished();
  if (!finished) return;
  last_checkpoint_ = finished->folder;
  save_seconds_ = finished->seconds;
  log_->debug("{} written in {:.2f} s", last_checkpoint_.string(), finished->seconds);
}

/// Of the checkpoint `folder`.
void Trainer::take_best(const TrainerState& where, const std::string& folder) {
  best_ = where.best;
  choice_kl_ = where.choice_kl;
  const std::string& figure = session_.config.train.keep_best;
  if (best_ && !figure.empty() && best_->figure != figure) {
    log_->warn("{}: its run kept the best by {}, train.keep_best is {} now: the best begins anew", folder,
               best_->figure, figure);
    best_.reset();
  }
}

bool Trainer::resume() {
  FoundCheckpoint found = agree_on_checkpoint(session_.rank, directory_.checkpoints(), log_);
  damaged_ = std::move(found.damaged);
  const auto& folder = found.folder;
  if (!folder) {
    log_->info("{} has no checkpoint yet: beginning at step 0", directory_.path().string());
    return false;
  }
  const ModelSource source = open_model(*folder, data::Checkpoint::Verify::Sizes);
  check_same_model(source.config, session_.student->config(), folder->string());
  const TrainerState where = trainer_state_from_json(source.trainer, folder->string());
  if (const auto difference = data::vocabulary_difference(*session_.tokenizer, *source.tokenizer))
    core::fail("{}: its run had another tokenizer than data.tokenizer ({}): {}", folder->string(),
               session_.config.data.tokenizer, *difference);
  core::check(where.step == source.step, "{}: its run stood at step {}, expected the checkpoint's own step",
              folder->string(), where.step);
  const auto changed = check_continues(where, folder->string(), session_.config, session_.text_fingerprint,
                                       session_.teacher_fingerprint);
  check_same_adapters(where.adapters, adapter_state(session_), folder->string());
  session_.load_student(source);
  steps_.load(*source.own, position_of(where, session_.config), folder->string(), changed);
  if (!changed.empty())
    log_->warn("{}: its run had another {}: it goes on by the new", folder->string(), fmt::join(changed, ", "));
  steps_.set_replicated(where.replicated);
  if (auto& placement = steps_.placement())
    placement->go_on_with(where.expert_order, where.expert_counts, folder->string());
  last_checkpoint_ = *folder;
  tokens_seen_ = where.tokens;
  session_.start.layers = where.layers;
  take_best(where, folder->string());
  log_->info("continuing from {} after step {}", folder->string(), steps_done());
  return true;
}

Throughput Trainer::throughput() const {
  if (timed_seconds_ <= 0) return {};
  const double rate = static_cast<double>(timed_tokens_) / timed_seconds_;
  return {rate, rate * flops_per_token_ / peak_flops_, timed_seconds_};
}

std::vector<AxisCommunication> Trainer::communication() const {
  return communication_of(traffic_, timed_steps_, timed_seconds_);
}

StepReport Trainer::step(bool dump) {
  parallel::CommTally& tally = session_.rank.mesh().world().engine().tally();
  tally.take();  // of what was between the steps
  StepWatch watch;
  if (watch_) {
    watch_->forget();
    watch.finite = &*watch_;
  }
  footprint_.begin_step();
  StepReport report = steps_.step(dump ? dump_ : std::nullopt, watch);
  report.traffic = tally.take();
  tokens_seen_ += report.num_tokens;
  report.tokens_seen = tokens_seen_;
  timed_seconds_ += report.seconds;
  ++timed_steps_;
  timed_tokens_ += report.num_tokens;
  report.tokens_per_s = static_cast<double>(report.num_tokens) / report.seconds;
  report.mfu = report.tokens_per_s * flops_per_token_ / peak_flops_;
  return report;
}

nlohmann::ordered_json Trainer::to_json(const StepReport& report) const {
  const StepResult& r = report.result;
  const RunConfig& config = session_.config;
  nlohmann::ordered_json line = {{"step", report.step},
                                 {"time", wall_time()},
                                 {"seconds", seconds_before_ + timed_seconds_},
                                 {"tokens", report.tokens_seen},
                                 {"loss", r.loss()},
                                 {"lr", report.rate},
                                 {"grad_norm", report.gradient_norm},
                                 {"tokens_per_s", report.tokens_per_s},
                                 {"mfu", report.mfu},
                                 {"rss_bytes", peak_resident_bytes()}};
  if (const std::optional<GuardState> guard = steps_.position().guard) {
    if (!report.refused.empty()) line["refused"] = report.refused;
    line["refused_steps"] = guard->refused;
    line["rolled_back"] = guard->rolled_back;
  }
  const double n = r.head.tokens;
  if (!config.objective.reward) line["ce"] = r.head.ce / n;
  if (compares_tokens(session_)) {
    line["kl"] = r.head.kl / n;
    line["teacher_ce"] = r.head.teacher_ce / n;
    line["top1_agreement"] = r.head.agreement / n;
  }
  if (session_.cached_teacher) {
    line["cache_wait_s"] = r.cache.wait_seconds;
    line["kept_mass"] = r.cache.kept_mass / std::max(1.0, r.cache.tokens);
  }
  if (session_.rank.teacher_ranks() != nullptr) line["teacher_wait_s"] = r.teacher_wait_seconds;
  if (r.spans) line.update(launch::to_json(*r.spans));
  if (r.sorted) line.update(launch::to_json(*r.sorted));
  if (steps_.hidden()) line["hidden_loss"] = r.hidden;
  if (r.preference) line.update(launch::to_json(*r.preference));
  for (std::size_t block = 0; block < nn::num_blocks; ++block)
    if (steps_.updates()[block]) line[fmt::format("{}_loss", update_names[block])] = r.updates[block];
  if (steps_.routers()) line["router_loss"] = r.routing;
  if (compares_tokens(session_) && !config.objective.preference) {
    line["grad_norm_ce"] = std::sqrt(r.head.ce_square);
    line["grad_norm_divergence"] = std::sqrt(r.head.divergence_square);
    if (steps_.hidden()) line["grad_norm_hidden"] = std::sqrt(r.hidden_square);
    for (std::size_t block = 0; block < nn::num_blocks; ++block)
      if (steps_.updates()[block])
        line[fmt::format("grad_norm_{}", update_names[block])] = std::sqrt(r.update_squares[block]);
    if (steps_.routers()) line["grad_norm_router"] = std::sqrt(r.routing_square);
  }
  if (config.objective.sampled_text) {
    line["sampled_tokens"] = report.sampled ? report.sampled->num_sampled : 0;
    line["sample_seconds"] = report.sample_seconds;
  }
  if (!r.predict.empty()) {
    line["predict_loss"] = r.predict_loss();
    for (std::size_t k = 0; k < r.predict.size(); ++k)
      if (r.predict[k].tokens > 0) line[fmt::format("predict_ce_{}", k + 1)] = r.predict[k].ce / r.predict[k].tokens;
  }
  if (!r.expert_load.empty()) {
    line["balance_loss"] = r.balance;
    line["z_loss"] = r.z;
    if (config.moe_loss.balance_weight > 0) line["grad_norm_balance"] = std::sqrt(r.balance_square);
    if (config.moe_loss.z_weight > 0) line["grad_norm_z"] = std::sqrt(r.z_square);
    line["expert_load"] = nlohmann::ordered_json::array();
    const nn::ModelConfig& model = session_.student->config();
    const auto tokens = static_cast<double>(report.num_tokens);
    for (std::int64_t layer = 0, row = 0; layer < model.num_layers + model.num_predict_layers; ++layer) {
      if (!model.is_moe_layer(layer)) continue;
      const auto at = static_cast<std::size_t>(row++);
      const std::vector<double>& load = r.expert_load[at];
      const double chosen = config.routing.expert_choice ? std::accumulate(load.begin(), load.end(), 0.0)
                                                         : tokens * static_cast<double>(model.moe.experts_per_token);
      const auto untaken =
          config.routing.leaves_out() && !r.untaken.empty() ? std::optional(r.untaken[at] / tokens) : std::nullopt;
      line["expert_load"].push_back(load_to_json(layer, load, chosen, untaken, is_detailed(report.step)));
      if (!report.fullest_ranks.empty()) line["expert_load"].back()["fullest_rank"] = report.fullest_ranks[at];
    }
  }
  if (report.moved_experts) line["moved_experts"] = *report.moved_experts;
  return line;
}

std::vector<Figure> Trainer::to_figures(const StepReport& report) const {
  const core::LossStatistics& head = report.result.head;
  const auto four = [](double value) { return fixed(value, 4); };
  std::vector<Figure> figures = {{"loss", four(report.result.loss())}};
  if (const auto& preference = report.result.preference) {
    figures.push_back({"right", fmt::format("{:.3f}", preference->accuracy)});
    figures.push_back({"margin", four(preference->margin)});
  }
  if (const auto& spans = report.result.spans) figures.push_back({"span kl", four(spans->kl)});
  if (const auto& sorted = report.result.sorted) figures.push_back({"uld", four(sorted->distance)});
  if (compares_tokens(session_)) {
    figures.push_back({"kl", four(head.kl / head.tokens)});
    figures.push_back({"top-1", fmt::format("{:.3f}", head.agreement / head.tokens)});
  }
  if (!session_.config.objective.reward) figures.push_back({"ce", four(head.ce / head.tokens)});
  figures.push_back({"grad", fmt::format("{:.3f}", report.gradient_norm)});
  figures.push_back({"tokens/s", fmt::format("{:.0f}", report.tokens_per_s)});
  figures.push_back({"of peak", fmt::format("{:.0f}%", 100 * report.mfu)});
  return figures;
}

bool Trainer::is_detailed(std::int64_t step) const {
  return step == 1 || step % session_.config.train.log_every_steps == 0;
}

void Trainer::log_details(const StepReport& report) const {
  if (!log_->should_log(spdlog::level::debug)) return;
  const StepTimes& t = report.times;
  log_->debug("step {}: {:.1f} ms: text {:.1f}, passes and reductions {:.1f}, gradient norm {:.1f}, optimizer {:.1f}",
              report.step, 1e3 * report.seconds, 1e3 * t.text, 1e3 * t.passes, 1e3 * t.norm, 1e3 * t.optimizer);
  const core::MemoryStatistics memory = session_.rank.memory()->statistics();
  log_->debug("step {}: {:.1f} MiB in tensors, {:.1f} at the peak, {:.1f} from the system in {}", report.step,
              mib(memory.used_bytes), mib(memory.peak_bytes), mib(memory.system_bytes),
              core::counted(memory.system_allocations, "piece"));
}

bool Trainer::is_without_gain() const {
  const TrainConfig& train = session_.config.train;
  return best_ && !train.keep_best.empty() && train.stop_after_evaluations_without_gain > 0 &&
         best_->without_gain >= train.stop_after_evaluations_without_gain;
}

bool Trainer::evaluate(nlohmann::ordered_json& line) {
  measured_.reset();
  if (!evaluations_.is_due(steps_done())) return false;
  const Measurement measured = evaluations_.measure(*session_.student, steps_done());
  if (evaluations_.is_all_due(steps_done())) measured_ = measured;
  if (measured.held_out.choice) choice_kl_ = measured.held_out.choice->kl;
  line.update(launch::to_json(measured));
  for (const std::string& said : to_lines(measured)) log_->info("step {}: {}", steps_done(), said);
  const std::optional<std::string> warning =
      starved_warning(measured.held_out.load, session_.config.routing.expert_choice);
  if (warning && !std::exchange(has_warned_, true)) log_->warn("step {}: {}", steps_done(), *warning);
  const std::string& figure = session_.config.train.keep_best;
  return !figure.empty() && offer(best_, figure, steps_done(), measured, evaluations_.is_regular(figure, steps_done()));
}

Measurement Trainer::measure_all() const { return measured_ ? *measured_ : evaluations_.measure(*session_.student); }

/// A kill may have come between a checkpoint and the link to it.
void Trainer::point_to_best() {
  if (!best_) return;
  on_first_rank(session_.rank, [&] {
    if (!data::point_to_best(directory_.checkpoints(), best_->step))
      log_->warn("the best checkpoint by {}, step_{}, is not there any more", best_->figure, best_->step);
  });
}

void Trainer::go_back(const StepReport& report) {
  FoundCheckpoint found = agree_on_checkpoint(session_.rank, directory_.checkpoints(), log_);
  damaged_.insert(damaged_.end(), found.damaged.begin(), found.damaged.end());
  core::check(found.folder.has_value(), "{} has no checkpoint to go back to", directory_.path().string());
  const std::string folder = found.folder->string();
  const ModelSource source = open_model(folder, data::Checkpoint::Verify::Sizes);
  const TrainerState where = trainer_state_from_json(source.trainer, folder);
  steps_.go_back(*source.own, position_of(where, session_.config), folder);
  steps_.set_replicated(where.replicated);
  if (auto& placement = steps_.placement()) placement->go_on_with(where.expert_order, where.expert_counts, folder);
  tokens_seen_ = where.tokens;
  take_best(where, folder);
  measured_.reset();
  log_->warn("step {} is refused, {}: going on from {} with the text behind that step", report.step, report.refused,
             folder);
}

/// A step that is not finite is the last: what is being saved stays.
StepReport Trainer::step_beside(Saves& saves, bool dump) {
  try {
    return step(dump);
  } catch (const StepFailed&) {
    saves.finish();
    throw;
  }
}

bool Trainer::run(std::int64_t last_step) {
  const TrainConfig& train = session_.config.train;
  std::optional<Metrics> metrics;
  std::optional<EventFile> events;
  const auto open_records = [&](std::int64_t step) {
    metrics.emplace(directory_.metrics(), step);
    if (step == last_step) return;
    events.emplace(directory_.path(), step);
    events->write_text("config", to_textproto(session_.config));
  };
  if (session_.rank.is_first()) {
    open_records(steps_done());
    seconds_before_ = metrics->seconds_before();
  }
  parallel::FileWaits& waits = session_.rank.mesh().world().engine().file_waits();
  const auto record = [&](const nlohmann::ordered_json& line) {
    const parallel::FileWait scope(&waits, [this] { return "writes " + directory_.metrics().string(); });
    if (metrics) metrics->write(line);
    if (events) events->write(line);
  };
  bool is_remade = false;        // perhaps before a save that it failed is heard of
  const auto make_whole = [&] {  // whether something was missing
    if (!metrics || !directory_.make_whole(session_.config)) return false;
    log_->warn("{}: was renamed or removed while the run went on, wholly or in part, and is made again",
               directory_.path().string());
    open_records(steps_done() - 1);
    is_remade = true;
    return true;
  };
  nlohmann::ordered_json line;
  Saves saves(session_.rank, [&] {
    if (make_whole()) record(line);
    return std::exchange(is_remade, false);
  });
  steps_.find_matches(session_.start.layers);
  Progress progress(log_, "step", steps_done(), last_step, train.log_every_steps);
  point_to_best();
  const bool goes_back = session_.config.guard && session_.config.guard->action == GuardAction::RollBack;
  bool stopped = false;
  while (steps_done() < last_step && !stopped && !is_without_gain()) {
    StepReport report = step_beside(saves, dump_ && steps_done() + 1 == last_step);
    if (!report.refused.empty()) {
      if (goes_back) {
        saves.finish();
        note_finished(saves);
      }
      if (goes_back && !last_checkpoint_.empty()) {
        traffic_ += report.traffic;
        go_back(report);
        if (metrics) open_records(steps_done());
        continue;
      }
      log_->warn("step {} is refused, {}: its update is left out", report.step, report.refused);
    }
    footprint_.end_step(is_detailed(report.step) ? std::optional(steps_.memory()) : std::nullopt, saves.copied_bytes());
    line = to_json(report);
    if (report.moved_experts.value_or(0) > 0)
      log_->debug("step {}: {} moved to other ranks or places in {:.3f} s", report.step,
                  core::counted(*report.moved_experts, "expert"), report.move_seconds);
    if (const double stall = saves.take_stall(); stall > 0) line["save_stall_s"] = stall;
    if (const auto seconds = std::exchange(save_seconds_, std::nullopt)) line["save_s"] = *seconds;
    const bool is_best = evaluate(line);
    std::int64_t at_work = saves.is_at_work() ? 1 : 0;
    stopped = stop_is_agreed(session_.rank, {report.traffic.numbers(), {&at_work, 1}, footprint_.numbers()});
    traffic_ += report.traffic;
    add_traffic(line, report.traffic);
    footprint_.add_to(line);
    const bool due = train.checkpoint_every_steps > 0 && steps_done() % train.checkpoint_every_steps == 0;
    const bool is_last = stopped || is_without_gain() || steps_done() == last_step;
    const bool is_saved = due || is_best || is_last;
    if (is_saved) make_whole();
    record(line);
    progress.update(steps_done(), to_figures(report));
    if (is_detailed(report.step)) log_details(report);
    if (at_work == 0) saves.go_on();
    note_finished(saves);
    if (is_saved) save(saves, train.save_in_background && !is_last);
  }
  progress.finish();
  steps_.forget_recording();
  return !stopped;
}

}  // namespace limbeck::launch
