#include "launch/run/run_steps.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "core/counted.h"
#include "core/exchanges_of.h"
#include "launch/run/clock.h"
#include "launch/run/expert_load.h"
#include "launch/run/gradient_dump.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/run_settings.h"
#include "launch/run/run_state.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/sharing.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

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

/// Of those of all stages of a pipeline each is in one list: what both ends have in the first one's.
core::ParameterList counted_here(const Rank& rank, core::ParameterList parameters) {
  if (rank.mesh().pp().rank() > 0)
    std::erase_if(parameters, [](const core::Parameter* p) { return parallel::lies_on_both_ends(*p); });
  return parameters;
}

/// Collective: sums over the stages.
std::vector<std::int64_t> over_stages(const Rank& rank, const std::vector<std::int64_t>& mine) {
  core::Tensor all = core::Tensor::from<std::int64_t>(rank.host_memory(), {std::ssize(mine)}, mine);
  rank.pipeline().sum(all);
  return core::host_values<std::int64_t>(all);
}

/// Collective: what each group does to how much of the model.
void say_groups(const Rank& rank, const core::ParameterList& parameters, const OptimizerConfig& config,
                const Log& log) {
  std::vector<optim::GroupCount> counts = optim::count_groups(counted_here(rank, parameters), optimizer_groups(config));
  if (counts.empty()) return;
  std::vector<std::int64_t> values;
  for (const optim::GroupCount& count : counts) values.insert(values.end(), {count.num_tensors, count.num_elements});
  values = over_stages(rank, values);
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = {values[2 * i], values[2 * i + 1]};
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

/// Collective: those of all stages of a pipeline, each once, in one order.
std::vector<std::string> names_of(Rank& rank, const core::ParameterList& parameters) {
  std::vector<std::string> names;
  std::string mine;
  for (const core::Parameter* p : parameters) mine += p->name + '\n';
  for (const std::string& of_stage : gather_strings(rank.mesh().pp(), mine)) {
    std::istringstream lines(of_stage);
    for (std::string name; std::getline(lines, name);)
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return names;
}

/// Collective: values of what is trained on all stages, some of which may have none. Throws where there are none.
std::int64_t count_trained(const Rank& rank, const core::ParameterList& parameters) {
  std::int64_t here = 0;
  for (const core::Parameter* p : counted_here(rank, parameters)) here += p->global_shape.numel();
  const std::int64_t all = over_stages(rank, {here})[0];
  optim::check_some_trained(all);
  return all;
}

/// Collective: what is trained of that; the frozen parameters give up their slots, and what is to be quantised is
/// rounded.
std::vector<optim::Trained> trained_of(Session& session, HiddenProjectors& projectors) {
  const core::ParameterList all = parameters_of(session, projectors);
  std::vector<optim::Trained> trained =
      optim::apply_groups(all, optimizer_groups(session.config.optimizer), names_of(session.rank, all));
  if (const QuantisedWeights weights = session.config.precision.quantised_weights; weights != QuantisedWeights::None)
    quantise_in_passes(*session.student, weights, threads_of_rank(session.config.train.threads));
  return trained;
}

/// Collective: how much of the model the adapters are.
void say_adapters(const Session& session, const Log& log) {
  if (!session.adapters) return;
  std::vector<std::int64_t> values(3);
  for (const core::Parameter* p : session.adapters->parameters()) values[0] += p->global_shape.numel();
  values[2] = std::ssize(session.adapters->parameters());
  for (const core::Parameter* p : counted_here(session.rank, session.student->parameters()))
    values[1] += p->global_shape.numel();
  values = over_stages(session.rank, values);
  log->info("adapters of rank {}: {} beside {} matrices, whose model of {} stays as it is",
            session.adapters->options().rank, core::counted(values[0], "parameter"), values[2] / 2,
            core::counted(values[1], "parameter"));
}

/// As TrainingStep asks it, agreed on by all ranks, whose losses may be sums of different groups; both outlive it.
std::function<std::string(double, double)> refusal_by(const std::optional<SpikeGuard>& guard, Rank& rank) {
  if (!guard) return {};
  return [&guard = *guard, &rank](double loss, double norm) {
    std::string why = guard.refuses(loss, norm);
    const std::int64_t refuses = why.empty() ? 0 : 1;
    core::Tensor any = core::Tensor::from<std::int64_t>(rank.host_memory(), {1}, {&refuses, 1});
    const core::ExchangesOf scope("whether the step is refused");
    rank.world().all_reduce(any, core::Reduce::Max);
    return why.empty() && core::host_values<std::int64_t>(any)[0] != 0 ? "as on another rank" : why;
  };
}

/// The one that runs beside the student in the steps; null: none does.
nn::Transformer* running_teacher(const Session& session) {
  if (session.runs_elsewhere()) return nullptr;
  return session.untrained_teacher ? session.untrained_teacher.get() : session.teacher.get();
}

}  // namespace

bool compares_tokens(const Session& session) { return session.distils() && !session.bridge; }

RunSteps::RunSteps(Session& session, const Log& log)
    : session_(session),
      objective_(session.config, compares_tokens(session),
                 session.cached_teacher && !session.cached_teacher->is_whole()),
      projectors_(session),
      trained_(trained_of(session, projectors_)),
      parameters_(optim::parameters_of(trained_)),
      num_trained_(count_trained(session.rank, parameters_)),
      used_bytes_(session.rank.memory()->statistics().used_bytes),
      sync_(parameters_, session.rank.mesh(), session.rank.memory(), session.config.precision.gradient,
            bucket_bytes(session.config.parallel), sharding_of(session.config.parallel)),
      gradient_bytes_(taken()),
      values_(parameters_, sync_.groups(), bucket_bytes(session.config.parallel)),
      fragments_(optim::fragments_of(trained_ = dealt(std::move(trained_), sync_.groups(), values_))),
      share_bytes_(taken()),
      optimizer_(trained_, optimizer_settings(session.config.optimizer, session.rank.memory()),
                 [&mesh = session.rank.mesh()](const std::string& axis) -> core::Comm& { return mesh.along(axis); }),
      optimizer_bytes_(taken()),
      schedule_(make_schedule(session.config)),
      guard_(session.config.guard ? std::optional<SpikeGuard>(*session.config.guard) : std::nullopt),
      training_step_(session.rank,
                     {*session.student, running_teacher(session), objective_.get(),
                      session.runs_elsewhere() ? nullptr : session.streamed_teacher.get(), session.others.get(),
                      session.cached_teacher.get(), session.remote_teacher.get(), session.bridge.get(),
                      session.relaid_teacher.get()},
                     sync_, optimizer_, values_, fragments_,
                     {session.config.optimizer.clip_norm, records_steps(session.config, session.rank),
                      names_of(session.rank, parameters_), refusal_by(guard_, session.rank)}),
      sampled_(session) {
  session.student->set_weights(values_.weights());  // which take over what is filled from here on
  if (deals_experts(session.config.parallel, session.student->config(), session.rank.mesh()))
    placement_.emplace(session.rank, *session.student, fragments_, optimizer_, values_);
  find_matches({});  // what does not fit is said before anything is made
  say_adapters(session, log);
  say_groups(session.rank, all_parameters(), session.config.optimizer, log);
  if (session.config.optimizer.offload && !session.rank.memory()->has_queue())
    log->info("optimizer.offload: moments are in this machine's memory anyway, for the run is on CPUs");
  log->debug("gradients are reduced in {} of about {} MiB", core::counted(sync_.statistics().num_buckets, "bucket"),
             session.config.parallel.bucket_mib);
}

void RunSteps::find_matches(std::span<const std::int64_t> kept) {
  if (!session_.teacher_config) return;
  const ObjectiveConfig& objective = session_.config.objective;
  const nn::ModelConfig &student = session_.student->config(), &teacher = *session_.teacher_config;
  hidden_ = hidden_match(objective.hidden_states, student, teacher, kept);
  if (hidden_) hidden_->projectors = projectors_.by_layer();
  if (hidden_ && session_.remote_teacher) session_.remote_teacher->want_layers(hidden_->asked_layers());
  if (hidden_ && session_.relaid_teacher) session_.relaid_teacher->want_layers(hidden_->asked_layers());
  const bool is_cut_later = session_.config.student_init && kept.empty();
  if (hidden_ && session_.cached_teacher && !(is_cut_later && objective.hidden_states.layers.empty()))
    check_kept(*hidden_, session_.cached_teacher->cache().contents().hidden_layers, session_.config.teacher->cache);
  updates_ = update_matches(objective, student, teacher, kept);
  // Which of the teacher's layers have experts beside the student's is known when it is cut.
  if (!is_cut_later || !objective.routers.layers.empty())
    routers_ = router_match(objective.routers, student, teacher, kept);
}

void RunSteps::begin() {
  values_.begin();
  taken();
  optimizer_.begin_training();
  optimizer_bytes_ += taken();
  values_.gather();
}

std::int64_t RunSteps::taken() {
  const std::int64_t now = session_.rank.memory()->statistics().used_bytes;
  return now - std::exchange(used_bytes_, now);
}

MemoryParts RunSteps::memory() {
  std::set<const core::Storage*> seen;
  const auto bytes_of = [&](const core::Tensor& tensor) -> std::int64_t {
    if (!tensor.defined()) return 0;
    const core::Storage& storage = *tensor.storage();
    const bool is_here = !storage.is_lent() && !storage.is_empty() && storage.memory() == session_.rank.memory();
    return is_here && seen.insert(&storage).second ? storage.bytes() : 0;
  };
  MemoryParts parts{.parameters = share_bytes_,
                    .gradients = gradient_bytes_,
                    .optimizer = optimizer_bytes_,
                    .host = optimizer_.offloaded_bytes()};
  for (const core::Parameter* p : all_parameters()) parts.parameters += bytes_of(p->value);
  const auto add_teacher = [&](nn::Transformer* teacher) {
    if (teacher == nullptr) return;
    for (const core::Parameter* p : teacher->parameters()) parts.teacher += bytes_of(p->value);
    parts.host += teacher->offloaded_bytes();
  };
  add_teacher(running_teacher(session_));
  if (const RelaidTeacher* relaid = session_.relaid_teacher.get()) {
    add_teacher(relaid->model());
    for (const core::Tensor* kept : {&relaid->head(), &relaid->head_bias()}) parts.teacher += bytes_of(*kept);
    add_teacher(session_.teacher.get());  // what figures ask
  }
  return parts;
}

core::Tensor RunSteps::values_here(const core::Parameter& parameter) const {
  const core::Tensor share = values_.share(parameter);
  return share.defined() ? share : parameter.value;
}

core::StateDict RunSteps::weights() {
  core::StateDict weights;
  for (const core::Parameter* p : all_parameters()) weights[p->name] = p->entry(p->value);
  for (const optim::Fragment& f : fragments_)
    if (f.sharers.value.defined()) weights[f.parameter->name] = f.entry(f.value());
  return weights;
}

core::StateDict RunSteps::gradients() const {
  core::StateDict gradients;
  for (const optim::Fragment& f : fragments_) gradients[f.parameter->name] = f.entry(f.gradient().reshape(f.shape()));
  return gradients;
}

core::StateDict RunSteps::state() {
  core::StateDict state = state_of(session_.base.path.empty() ? session_.student.get() : nullptr, fragments_,
                                   session_.adapters.get(), optimizer_);
  state.merge(projectors_.state_dict());
  return state;
}

core::ParameterList RunSteps::all_parameters() { return parameters_of(session_, projectors_); }

void RunSteps::load(const core::StateReader& reader, const StepsPosition& position, const std::string& where,
                    const std::vector<std::string>& changed) {
  values_.begin();
  taken();
  while_others_hear(session_.rank, [&] {
    projectors_.load(reader);
    load_optimizer(optimizer_, reader, where, changed);
  });
  optimizer_bytes_ += taken();
  values_.gather();  // of what the optimizer has rounded
  steps_done_ = position.step;
  passed_over_ = position.passed_over;
  optimizer_.set_num_steps(steps_done_);
  if (guard_ && position.guard) guard_->load(*position.guard);
  sampled_.go_on_with(position.said);
}

void RunSteps::go_back(const core::StateReader& reader, const StepsPosition& position, const std::string& where) {
  if (placement_) placement_->go_home();
  while_others_hear(session_.rank, [&] {
    for (auto& [name, entry] : state())
      if (!name.starts_with("optimizer/")) reader.read(name, entry);
    load_optimizer(optimizer_, reader, where, {});
  });
  values_.gather();
  passed_over_ += steps_done_ - position.step;
  steps_done_ = position.step;
  optimizer_.set_num_steps(steps_done_);
  guard_->go_back(position.guard.value_or(GuardState()));
}

StepsPosition RunSteps::position() const {
  return {steps_done_, passed_over_, guard_ ? std::optional(guard_->state()) : std::nullopt, sampled_.ahead()};
}

StepText RunSteps::text_of_next(std::int64_t further) const {
  return session_.step_text((steps_done_ + passed_over_ + further) * session_.config.batch.sequences_per_step);
}

/// What this step asks of the cache or of other ranks, unless it is on its way, and what the next one will.
void RunSteps::prefetch(const StepText& samples) {
  const RunConfig& config = session_.config;
  const auto fetch = [&](bool is_under_way, bool are_whole, const auto& begin) {
    const auto batches = [&](const StepText& text) {
      return batches_of(session_.rank, text, config.batch.micro_batches, are_whole);
    };
    if (!is_under_way) begin(batches(samples));
    if (steps_done_ + 1 < config.train.steps && !is_sampled_step(config, steps_done_ + 2))
      begin(batches(text_of_next(1)));
  };
  // Of whole distributions a step reads its own, chunk by chunk; of a pipeline the last stage compares with them.
  if (CachedTeacher* cached = session_.cached_teacher.get();
      cached != nullptr && !cached->is_whole() && session_.rank.is_last_stage())
    fetch(cached->has_prefetched(), false, [&](auto all) { cached->prefetch(std::move(all)); });
  if (RemoteTeacher* remote = session_.remote_teacher.get())
    fetch(remote->has_asked(), true, [&](const auto& all) { remote->ask(all); });
}

void RunSteps::set_replicated(std::vector<std::vector<std::int64_t>> experts) {
  const std::int64_t num_experts = session_.student->config().moe.num_experts;
  for (const std::vector<std::int64_t>& of_layer : experts)
    core::check(std::ranges::is_sorted(of_layer, std::ranges::less_equal()) &&
                    std::ranges::all_of(of_layer, [=](std::int64_t e) { return e >= 0 && e < num_experts; }),
                "replicated experts are {}, expected ascending ones in [0,{})", of_layer, num_experts);
  if (session_.config.parallel.expert_replicas > 0) replicated_ = std::move(experts);
}

void RunSteps::choose_replicas(const StepResult& result) {
  const std::int64_t most = session_.config.parallel.expert_replicas;
  if (most == 0) return;
  const nn::ModelConfig& model = session_.student->config();
  replicated_.clear();
  auto load = result.expert_load.begin();
  for (std::int64_t layer = 0; load != result.expert_load.end(); ++layer)
    replicated_.push_back(model.is_moe_layer(layer) ? most_loaded(*load++, most) : std::vector<std::int64_t>());
}

void RunSteps::in_model_order(const std::function<void()>& f, bool gradients_too) {
  if (placement_)
    placement_->in_model_order(f, gradients_too);
  else
    f();
}

void RunSteps::place_experts(StepReport& report) {
  if (!placement_) return;
  report.fullest_ranks = placement_->fullest(report.result.expert_load);
  placement_->count(report.result.expert_load);
  if (report.step % session_.config.parallel.deal_experts_every_steps != 0) return;
  auto since = Clock::now();
  report.moved_experts = placement_->deal();
  report.move_seconds = lap(since);
}

std::string RunSteps::seen_first(const core::FiniteWatch& watch) const {
  std::string own;
  if (const auto& found = watch.first()) own = nlohmann::json{found->pass, found->place, found->what}.dump();
  using Seen = std::tuple<std::int64_t, std::int64_t, std::size_t, std::string>;
  std::optional<Seen> first;
  const std::vector<std::string> all = gather_strings(session_.rank, own);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const nlohmann::json seen = nlohmann::json::parse(all[rank]);
    Seen one{seen[0].get<std::int64_t>(), seen[1].get<std::int64_t>(), rank, seen[2].get<std::string>()};
    if (!first || one < *first) first = std::move(one);
  }
  return first ? fmt::format("; first not finite: {} on rank {}", std::get<3>(*first), std::get<2>(*first))
               : "; no operation of a model's gave what is not finite";
}

void RunSteps::check(const TrainingStep::Done& done, std::int64_t step, const core::FiniteWatch* watch) const {
  try {
    done.check(step);
  } catch (const StepFailed& error) {  // on every rank
    throw StepFailed(error.what() +
                     (watch == nullptr ? " (with --debug-step: by which operation)" : seen_first(*watch)));
  }
}

StepReport RunSteps::step(const std::optional<std::filesystem::path>& dump, const StepWatch& watch) {
  StepReport report;
  const RunConfig& config = session_.config;
  session_.rank.world().note_step(steps_done_ + 1);
  report.step = steps_done_ + 1;
  StepText samples = text_of_next();
  if (is_sampled_step(config, report.step)) {
    const core::ExchangesOf scope("texts that the student writes");
    auto since = Clock::now();
    report.sampled = sampled_.of(report.step, [this](std::int64_t further) { return text_of_next(further); });
    samples = StepText(report.sampled->samples);
    report.sample_seconds = lap(since);
  }
  const optim::DistillationOptions options = distillation_options(config, report.step, report.sampled.has_value());
  std::optional<GradientDump> gradients;
  if (dump && placement_) placement_->go_home();
  if (dump)
    gradients.emplace(session_.rank, *dump, session_.student->config(), config, options,
                      session_.tokenizer->vocabulary_size(), samples.fetch(0, samples.num_sequences), all_parameters(),
                      fragments_);
  report.rate = schedule_.rate(report.step);
  if (session_.runs_elsewhere()) prefetch(samples);
  objective_.begin_step(report.step, report.sampled.has_value());
  StepOptions of_step = step_options(config, steps_done_, options, session_.tokenizer->vocabulary_size());
  of_step.pipeline = &session_.pipeline;
  of_step.hidden = hidden_;
  of_step.updates = updates_;
  of_step.routers = routers_;
  of_step.watch = watch;
  of_step.replicated = replicated_;
  const TrainingStep::Done done = training_step_.run(samples, of_step, report.rate);
  if (gradients) gradients->write(done.result, fragments_);
  report.result = done.result;
  report.refused = done.refused;
  if (!done.refused.empty()) {
    if (watch.finite != nullptr && !(std::isfinite(done.result.loss()) && std::isfinite(done.norm.norm)))
      report.refused += seen_first(*watch.finite);
    guard_->refuse(report.step, report.refused);
  } else {
    check(done, report.step, watch.finite);
    if (guard_) guard_->take(report.step, done.result.loss(), done.norm.norm);
    if (session_.student->config().moe.selection_bias && !session_.adapters)
      session_.student->move_selection_biases(done.result.expert_load, config.routing.bias_rate);
    choose_replicas(done.result);
    place_experts(report);
  }
  report.times = done.times;
  report.gradient_norm = done.norm.norm;

  ++steps_done_;
  report.num_tokens = samples.num_tokens;
  report.seconds = report.sample_seconds + report.times.text + report.times.passes + report.times.norm +
                   report.times.optimizer + report.move_seconds;
  return report;
}

}  // namespace limbeck::launch
