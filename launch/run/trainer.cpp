#include "launch/run/trainer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "core/counted.h"
#include "core/device/index_check.h"
#include "data/checkpoints/checkpoint.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/report/event_file.h"
#include "launch/run/clock.h"
#include "launch/run/evaluation_json.h"
#include "launch/run/expert_load.h"
#include "launch/run/gradient_dump.h"
#include "launch/run/machine_peak.h"
#include "launch/run/model_source.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/sharing.h"
#include "launch/run/threads.h"
#include "optim/clip.h"

namespace limbeck::launch {
namespace {

using core::check;

static_assert(static_cast<int>(ScheduleKind::WarmupStableDecay) ==
              static_cast<int>(optim::Schedule::Kind::WarmupStableDecay));
static_assert(static_cast<int>(ScheduleDecay::OneMinusSqrt) == static_cast<int>(optim::Schedule::Decay::OneMinusSqrt));

optim::Schedule make_schedule(const RunConfig& config) {
  optim::Schedule schedule;
  schedule.kind = static_cast<optim::Schedule::Kind>(config.schedule.kind);
  schedule.peak_rate = config.optimizer.rate;
  schedule.warmup_steps = config.schedule.warmup_steps;
  schedule.num_steps = config.train.steps;
  schedule.final_fraction = config.schedule.final_rate_fraction;
  schedule.decay_fraction = config.schedule.decay_fraction;
  schedule.decay = static_cast<optim::Schedule::Decay>(config.schedule.decay);
  schedule.check_valid();
  return schedule;
}

constexpr std::int64_t least_eight_bit_elements = 4096;  // as bitsandbytes: the gain from smaller ones is nothing

optim::OptimizerSettings optimizer_settings(const OptimizerConfig& config) {
  return {.uses_muon = config.kind == OptimizerKind::Muon,
          .adamw = {.beta1 = config.beta1,
                    .beta2 = config.beta2,
                    .eps = config.eps,
                    .weight_decay = config.weight_decay,
                    .eight_bit_from = config.eight_bit_state ? least_eight_bit_elements : 0},
          .muon = {.momentum = config.momentum, .weight_decay = config.weight_decay},
          .adamw_rate_factor = config.adamw_rate_factor};
}

std::vector<optim::Group> groups_of(const OptimizerConfig& config) {
  std::vector<optim::Group> groups;
  for (const OptimizerGroupConfig& g : config.groups)
    groups.push_back({.pattern = g.pattern,
                      .rate_factor = g.rate_factor,
                      .weight_decay = g.weight_decay,
                      .frozen = g.frozen,
                      .adamw = g.adamw});
  return groups;
}

/// What each group does to how much of the model.
void say_groups(const core::ParameterList& parameters, const OptimizerConfig& config, const Log& log) {
  const std::vector<optim::GroupCount> counts = optim::count_groups(parameters, groups_of(config));
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const OptimizerGroupConfig& group = config.groups[i];
    std::vector<std::string> what;
    if (group.frozen) what.emplace_back("frozen");
    if (!group.frozen && group.rate_factor != 1) what.push_back(fmt::format("rate times {}", group.rate_factor));
    if (!group.frozen && group.weight_decay) what.push_back(fmt::format("weight decay {}", *group.weight_decay));
    if (!group.frozen && group.adamw) what.emplace_back("by AdamW");
    log->info("group {}: {}, {}: {}", group.pattern, core::counted(counts[i].num_tensors, "tensor"),
              core::counted(counts[i].num_elements, "parameter"),
              what.empty() ? "as all" : fmt::format("{}", fmt::join(what, ", ")));
  }
}

std::int64_t bucket_bytes(const ParallelConfig& config) { return std::llround(config.bucket_mib * 1024 * 1024); }

nn::RouterTraining router_training(const RunConfig& config, std::int64_t step) {
  return {.balance = config.moe_loss.balance_weight,
          .z = config.moe_loss.z_weight,
          .balance_scope = config.moe_loss.balance_scope,
          .capacity_factor = config.routing.capacity_factor,
          .jitter = config.routing.jitter,
          .seed = config.train.seed,
          .step = static_cast<std::uint64_t>(step)};
}

double preference_beta(const ObjectiveConfig& config) { return config.preference ? config.preference->beta : 0; }

/// A layer's load of `chosen` assignments; its experts' counts too where `is_whole`.
nlohmann::ordered_json load_to_json(std::int64_t layer, const std::vector<double>& assignments, double chosen,
                                    bool is_whole) {
  const ExpertLoad load = expert_load(assignments, chosen);
  nlohmann::ordered_json json = {{"layer", layer},
                                 {"min", load.min},
                                 {"max", load.max},
                                 {"entropy", load.entropy},
                                 {"drops", static_cast<std::int64_t>(load.drops)}};
  if (is_whole) json["assignments"] = std::vector<std::int64_t>(assignments.begin(), assignments.end());
  return json;
}

/// Parameters that have gone from one optimizer to another by optimizer.groups have no state there.
void load_optimizer(optim::Optimizer& optimizer, const core::StateReader& reader, const std::string& where,
                    const std::vector<std::string>& changed) {
  try {
    optimizer.load(reader);
  } catch (const core::Error& error) {
    if (std::find(changed.begin(), changed.end(), "optimizer") == changed.end()) throw;
    core::fail("{}: its run had another optimizer, whose state this one cannot take: {}", where, error.what());
  }
}

/// All that there is to train, frozen or not: the student's, and those beside it.
core::ParameterList parameters_of(const Session& session, HiddenProjectors& projectors) {
  core::ParameterList all = session.student->parameters();
  const auto append = [&](const core::ParameterList& more) { all.insert(all.end(), more.begin(), more.end()); };
  if (session.adapters) append(session.adapters->parameters());
  append(projectors.parameters());
  return all;
}

/// What is trained of that; the frozen parameters give up their slots, and what is to be quantised is rounded.
std::vector<optim::Trained> trained_of(Session& session, HiddenProjectors& projectors) {
  std::vector<optim::Trained> trained =
      optim::apply_groups(parameters_of(session, projectors), groups_of(session.config.optimizer));
  if (const QuantisedWeights weights = session.config.precision.quantised_weights; weights != QuantisedWeights::None)
    quantise_in_passes(*session.student, weights, threads_of_rank(session.config.train.threads));
  return trained;
}

/// How much of the model the adapters are.
void say_adapters(const Session& session, const Log& log) {
  if (!session.adapters) return;
  std::int64_t values = 0, all = 0;
  for (const core::Parameter* p : session.adapters->parameters()) values += p->global_shape.numel();
  for (const core::Parameter* p : session.student->parameters()) all += p->global_shape.numel();
  log->info("adapters of rank {}: {} beside {} matrices, whose model of {} stays as it is",
            session.adapters->options().rank, core::counted(values, "parameter"),
            session.adapters->parameters().size() / 2, core::counted(all, "parameter"));
}

std::optional<AdapterState> adapter_state(const Session& session) {
  if (!session.adapters) return std::nullopt;
  const nn::AdapterOptions& options = session.adapters->options();
  return AdapterState{options.rank, options.alpha, session.base.path, session.base.fingerprint};
}

std::string quantised_as(const PrecisionConfig& precision) {
  return precision.quantised_weights == QuantisedWeights::None ? "" : name_of(precision.quantised_weights).name;
}

/// The one that runs beside the student in the steps; null: none does.
const nn::Transformer* running_teacher(const Session& session) {
  if (session.runs_elsewhere()) return nullptr;
  return session.untrained_teacher ? session.untrained_teacher.get() : session.teacher.get();
}

/// Whether the student learns from what a teacher says of each of its tokens.
bool compares_tokens(const Session& session) { return session.distils() && !session.bridge; }

double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024); }

}  // namespace

Trainer::Trainer(Session& session, RunDirectory& directory, Log log, RunEvaluations& evaluations)
    : session_(session),
      directory_(directory),
      log_(std::move(log)),
      evaluations_(evaluations),
      objective_(session.config, compares_tokens(session),
                 session.cached_teacher && !session.cached_teacher->is_whole()),
      projectors_(session),
      trained_(trained_of(session, projectors_)),
      parameters_(optim::parameters_of(trained_)),
      sync_(parameters_, session.rank.mesh(), session.rank.memory(), session.config.precision.gradient,
            bucket_bytes(session.config.parallel), sharding_of(session.config.parallel)),
      values_(parameters_, sync_.groups(), bucket_bytes(session.config.parallel)),
      fragments_(optim::fragments_of(dealt(trained_, sync_.groups(), values_))),
      optimizer_(dealt(trained_, sync_.groups(), values_), optimizer_settings(session.config.optimizer),
                 [&mesh = session.rank.mesh()](const std::string& axis) -> core::Comm& { return mesh.along(axis); }),
      schedule_(make_schedule(session.config)),
      training_step_(session.rank,
                     {*session.student, running_teacher(session), objective_.get(),
                      session.runs_elsewhere() ? nullptr : session.streamed_teacher.get(), session.others.get(),
                      session.cached_teacher.get(), session.remote_teacher.get(), session.bridge.get()},
                     sync_, optimizer_, values_, fragments_,
                     {session.config.optimizer.clip_norm, records_steps(session.config, session.rank)}) {
  find_matches({});  // what does not fit is said before anything is made
  const std::int64_t s = session.config.data.sequence_length;
  flops_per_token_ = nn::training_flops_per_token(session.student->config(), s);
  if (session.bridge)  // as if its tokens were as many as the student's
    flops_per_token_ += nn::forward_flops_per_token(session.bridge->teacher().config(), s);
  if (session.teacher && !session.runs_elsewhere()) {
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
  say_adapters(session, log_);
  say_groups(parameters_of(session, projectors_), session.config.optimizer, log_);
  log_->debug("gradients are reduced in {} of about {} MiB", core::counted(sync_.statistics().num_buckets, "bucket"),
              session.config.parallel.bucket_mib);
  log_->debug("measured peak of all ranks: {:.1f} GFLOP/s; a token costs {:.2f} MFLOP", peak_flops_ / 1e9,
              flops_per_token_ / 1e6);
}

void Trainer::find_matches(std::span<const std::int64_t> kept) {
  if (!session_.teacher_config) return;
  const ObjectiveConfig& objective = session_.config.objective;
  const nn::ModelConfig &student = session_.student->config(), &teacher = *session_.teacher_config;
  hidden_ = hidden_match(objective.hidden_states, student, teacher, kept);
  if (hidden_) hidden_->projectors = projectors_.by_layer();
  if (hidden_ && session_.remote_teacher) {
    std::set<std::int64_t> layers(hidden_->layers.begin(), hidden_->layers.end());
    layers.erase(-1);
    session_.remote_teacher->want_layers({layers.begin(), layers.end()});
  }
  const bool is_cut_later = session_.config.student_init && kept.empty();
  if (hidden_ && session_.cached_teacher && !(is_cut_later && objective.hidden_states.layers.empty()))
    check_kept(*hidden_, session_.cached_teacher->cache().contents().hidden_layers, session_.config.teacher->cache);
  updates_ = update_matches(objective, student, teacher, kept);
  // Which of the teacher's layers have experts beside the student's is known when it is cut.
  if (!is_cut_later || !objective.routers.layers.empty())
    routers_ = router_match(objective.routers, student, teacher, kept);
}

void Trainer::deal_values() {
  values_.begin();
  session_.student->set_layer_weights(values_.layers());
}

void Trainer::begin() {
  deal_values();
  optimizer_.begin_training();
  values_.gather();
}

core::StateDict Trainer::state() {
  core::StateDict state;
  if (session_.base.path.empty()) state = session_.student->state_dict();
  for (const optim::Fragment& f : fragments_)
    if (f.sharers.value.defined()) state[f.parameter->name] = f.entry(f.value());
  if (session_.adapters) state.merge(session_.adapters->state_dict());
  state.merge(projectors_.state_dict());
  state.merge(optimizer_.state_dict());
  return state;
}

void Trainer::save(const std::function<bool()>& make_whole) {
  // What no load takes is not saved over what one does.
  const auto check_finite = [&](const core::Tensor& values, const std::string& name) {
    core::check(core::first_not_finite(values.in(session_.rank.host_memory())) == values.numel(),
                "step {}: {} holds NaN or an infinity after the optimizer's step: nothing is saved", steps_done_, name);
  };
  for (const core::Parameter* p : parameters_of(session_, projectors_))
    check_finite(values_.share(*p).defined() ? values_.share(*p) : p->value, p->name);
  const TrainerState where{.step = steps_done_,
                           .next_sample = steps_done_ * session_.config.batch.sequences_per_step,
                           .tokens = tokens_seen_,
                           .run_config = to_textproto(session_.config),
                           .text = session_.text_fingerprint,
                           .teacher = session_.teacher_fingerprint,
                           .layers = session_.start.layers,
                           .best = best_,
                           .adapters = adapter_state(session_),
                           .quantised_as = quantised_as(session_.config.precision)};
  Keep keep{.newest = static_cast<int>(session_.config.train.keep_checkpoints), .damaged = std::move(damaged_)};
  if (best_) keep.best_step = best_->step;
  auto since = Clock::now();
  const std::string extra = checkpoint_extra(session_.student->config(), *session_.tokenizer, launch::to_json(where));
  for (bool is_saved = false; !is_saved;) {
    try {
      last_checkpoint_ = save_checkpoint(session_.rank, directory_.checkpoints(), steps_done_, state(), extra, keep);
      is_saved = true;
    } catch (const parallel::PeerError&) {
      throw;
    } catch (const core::Error&) {  // on every rank
      std::string is_lost;
      on_first_rank(session_.rank, [&] { is_lost = make_whole() ? "yes" : ""; });
      if (gather_strings(session_.rank, is_lost).front().empty()) throw;
    }
  }
  damaged_.clear();
  log_->debug("{} written in {:.2f} s", last_checkpoint_.string(), lap(since));
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
  deal_values();
  while_others_hear(session_.rank, [&] {
    projectors_.load(*source.own);
    load_optimizer(optimizer_, *source.own, folder->string(), changed);
  });
  values_.gather();  // of what the optimizer has rounded
  if (!changed.empty())
    log_->warn("{}: its run had another {}: it goes on by the new", folder->string(), fmt::join(changed, ", "));
  last_checkpoint_ = *folder;
  steps_done_ = where.step;
  tokens_seen_ = where.tokens;
  best_ = where.best;
  session_.start.layers = where.layers;
  const std::string& figure = session_.config.train.keep_best;
  if (best_ && !figure.empty() && best_->figure != figure) {
    log_->warn("{}: its run kept the best by {}, train.keep_best is {} now: the best begins anew", folder->string(),
               best_->figure, figure);
    best_.reset();
  }
  optimizer_.set_num_steps(where.step);
  log_->info("continuing from {} after step {}", folder->string(), steps_done_);
  return true;
}

std::int64_t Trainer::num_trained() const {
  std::int64_t values = 0;
  for (const core::Parameter* p : parameters_) values += p->global_shape.numel();
  return values;
}

Throughput Trainer::throughput() const {
  if (timed_seconds_ <= 0) return {};
  const double rate = static_cast<double>(timed_tokens_) / timed_seconds_;
  return {rate, rate * flops_per_token_ / peak_flops_, timed_seconds_};
}

/// What this step asks of the cache or of other ranks, unless it is on its way, and what the next one will.
void Trainer::prefetch(const StepText& samples) {
  const RunConfig& config = session_.config;
  const auto batches = [&](const StepText& text) {
    return batches_of(session_.rank, text, config.batch.micro_batches);
  };
  const auto fetch = [&](bool is_under_way, const auto& begin) {
    if (!is_under_way) begin(batches(samples));
    if (steps_done_ + 1 < config.train.steps && !is_sampled_step(config, steps_done_ + 2))
      begin(batches(session_.step_text((steps_done_ + 1) * config.batch.sequences_per_step)));
  };
  // Of whole distributions a step reads its own, chunk by chunk.
  if (CachedTeacher* cached = session_.cached_teacher.get(); cached != nullptr && !cached->is_whole())
    fetch(cached->has_prefetched(), [&](auto all) { cached->prefetch(std::move(all)); });
  if (RemoteTeacher* remote = session_.remote_teacher.get())
    fetch(remote->has_asked(), [&](const auto& all) { remote->ask(all); });
}

StepReport Trainer::step(bool dump) {
  StepReport report;
  const RunConfig& config = session_.config;
  const std::int64_t position = steps_done_ * config.batch.sequences_per_step;
  session_.rank.world().note_step(steps_done_ + 1);
  report.step = steps_done_ + 1;
  StepText samples = session_.step_text(position);
  if (is_sampled_step(config, report.step)) {
    auto since = Clock::now();
    report.sampled = sample_text(session_, samples, report.step);
    samples = StepText(report.sampled->samples);
    report.sample_seconds = lap(since);
  }
  const optim::DistillationOptions options = distillation_options(config, report.step, report.sampled.has_value());
  std::optional<GradientDump> gradients;
  if (dump)
    gradients.emplace(session_.rank, *dump_, session_.student->config(), config, options,
                      session_.tokenizer->vocabulary_size(), samples.fetch(0, samples.num_sequences),
                      parameters_of(session_, projectors_), fragments_);
  report.rate = schedule_.rate(report.step);
  if (session_.runs_elsewhere()) prefetch(samples);
  objective_.begin_step(report.step, report.sampled.has_value());
  const TeacherControl control{config.objective.control, config.objective.smoothing};
  const TrainingStep::Done done = training_step_.run(samples,
                                                     {.micro_batches = config.batch.micro_batches,
                                                      .router = router_training(config, steps_done_),
                                                      .recompute = config.train.recompute,
                                                      .valid_vocabulary = session_.tokenizer->vocabulary_size(),
                                                      .predict_weight = config.objective.predict_weight,
                                                      .temperature = options.temperature,
                                                      .bridge = config.objective.bridge,
                                                      .preference_beta = preference_beta(config.objective),
                                                      .bridge_ce_weight = options.ce_weight,
                                                      .reward = config.objective.reward,
                                                      .hidden = hidden_,
                                                      .updates = updates_,
                                                      .routers = routers_,
                                                      .control = control},
                                                     report.rate);
  if (gradients) gradients->write(done.result, fragments_);
  done.check(report.step);
  if (session_.student->config().moe.selection_bias && !session_.adapters)
    session_.student->move_selection_biases(done.result.expert_load, config.routing.bias_rate);
  report.result = done.result;
  report.times = done.times;
  report.gradient_norm = done.norm.norm;

  ++steps_done_;
  report.num_tokens = samples.num_tokens;
  tokens_seen_ += report.num_tokens;
  report.tokens_seen = tokens_seen_;
  report.seconds =
      report.sample_seconds + report.times.text + report.times.passes + report.times.norm + report.times.optimizer;
  timed_seconds_ += report.seconds;
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
  if (session_.remote_teacher) line["teacher_wait_s"] = r.teacher_wait_seconds;
  if (r.spans) line.update(launch::to_json(*r.spans));
  if (r.sorted) line.update(launch::to_json(*r.sorted));
  if (hidden_) line["hidden_loss"] = r.hidden;
  if (r.preference) line.update(launch::to_json(*r.preference));
  for (std::size_t block = 0; block < nn::num_blocks; ++block)
    if (updates_[block]) line[fmt::format("{}_loss", update_names[block])] = r.updates[block];
  if (routers_) line["router_loss"] = r.routing;
  if (compares_tokens(session_) && !config.objective.preference) {
    line["grad_norm_ce"] = std::sqrt(r.head.ce_square);
    line["grad_norm_divergence"] = std::sqrt(r.head.divergence_square);
    if (hidden_) line["grad_norm_hidden"] = std::sqrt(r.hidden_square);
    for (std::size_t block = 0; block < nn::num_blocks; ++block)
      if (updates_[block]) line[fmt::format("grad_norm_{}", update_names[block])] = std::sqrt(r.update_squares[block]);
  }
  if (session_.config.objective.sampled_text.fraction > 0) {
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
    line["expert_load"] = nlohmann::ordered_json::array();
    const nn::ModelConfig& model = session_.student->config();
    const auto chosen = static_cast<double>(report.num_tokens * model.moe.experts_per_token);
    auto load = r.expert_load.begin();
    for (std::int64_t layer = 0; layer < model.num_layers + model.num_predict_layers; ++layer)
      if (model.is_moe_layer(layer))
        line["expert_load"].push_back(load_to_json(layer, *load++, chosen, is_detailed(report.step)));
  }
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
  if (!evaluations_.is_due(steps_done_)) return false;
  const Measurement measured = evaluations_.measure(*session_.student, steps_done_);
  if (evaluations_.is_all_due(steps_done_)) measured_ = measured;
  line.update(launch::to_json(measured));
  for (const std::string& said : to_lines(measured)) log_->info("step {}: {}", steps_done_, said);
  if (const auto warning = starved_warning(measured.held_out.load); warning && !std::exchange(has_warned_, true))
    log_->warn("step {}: {}", steps_done_, *warning);
  const std::string& figure = session_.config.train.keep_best;
  return !figure.empty() && offer(best_, figure, steps_done_, measured, evaluations_.is_regular(figure, steps_done_));
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
    open_records(steps_done_);
    seconds_before_ = metrics->seconds_before();
  }
  const auto record = [&](const nlohmann::ordered_json& line) {
    if (metrics) metrics->write(line);
    if (events) events->write(line);
  };
  const auto make_whole = [&] {  // whether something was missing
    if (!metrics || !directory_.make_whole(session_.config)) return false;
    log_->warn("{}: was renamed or removed while the run went on, wholly or in part, and is made again",
               directory_.path().string());
    open_records(steps_done_ - 1);
    return true;
  };
  find_matches(session_.start.layers);
  Progress progress(log_, "step", steps_done_, last_step, train.log_every_steps);
  point_to_best();
  bool stopped = false;
  while (steps_done_ < last_step && !stopped && !is_without_gain()) {
    const StepReport report = step(dump_ && steps_done_ + 1 == last_step);
    nlohmann::ordered_json line = to_json(report);
    const bool is_best = evaluate(line);
    stopped = stop_is_agreed(session_.rank);
    const bool due = train.checkpoint_every_steps > 0 && steps_done_ % train.checkpoint_every_steps == 0;
    const bool saves = due || stopped || is_best || is_without_gain() || steps_done_ == last_step;
    if (saves) make_whole();
    record(line);
    progress.update(steps_done_, to_figures(report));
    if (is_detailed(report.step)) log_details(report);
    if (saves)
      save([&] {
        const bool is_new = make_whole();
        if (is_new) record(line);
        return is_new;
      });
  }
  progress.finish();
  training_step_.forget_recording();
  return !stopped;
}

}  // namespace limbeck::launch
