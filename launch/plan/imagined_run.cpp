#include "launch/plan/imagined_run.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "core/nn/transformer.h"
#include "launch/plan/imagined_models.h"
#include "launch/run/clock.h"
#include "launch/run/cut_sequences.h"
#include "launch/run/expert_placement.h"
#include "launch/run/hidden_projectors.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/rank.h"
#include "launch/run/run_models.h"
#include "launch/run/run_objective.h"
#include "launch/run/run_settings.h"
#include "launch/run/run_state.h"
#include "launch/run/sharing.h"
#include "launch/run/training_step.h"
#include "optim/muon.h"
#include "parallel/imagined/imagined_world.h"

namespace limbeck::launch {
namespace {

constexpr int steps_until_all_is_made = 2;  // what a step finds of the one before

/// What there is to train, frozen or not: the student's own parameters, its adapters, and what is beside it.
core::ParameterList all_of(nn::Transformer& student, std::optional<nn::Adapters>& adapters,
                           HiddenProjectors& projectors) {
  core::ParameterList all = student.parameters();
  const auto append = [&](const core::ParameterList& more) { all.insert(all.end(), more.begin(), more.end()); };
  if (adapters) append(adapters->parameters());
  append(projectors.parameters());
  return all;
}

std::vector<std::string> names_of(const core::ParameterList& parameters) {
  std::vector<std::string> names;
  for (const core::Parameter* p : parameters) names.push_back(p->name);
  return names;
}

/// The student on one rank: what the stages of a pipeline, which have its layers each for themselves, know of all.
struct WholeStudent {
  std::vector<std::string> names, trained;
  std::int64_t trainable = 0;  // values
};
WholeStudent whole_student(const RunConfig& config, const PlannedModels& models) {
  const core::MemoryPtr memory = core::Memory::imagined({});
  nn::Transformer student(models.student, {.memory = memory, .with_predict = true});
  std::optional<nn::Adapters> adapters;
  if (config.adapters) adapters.emplace(student, adapter_options(*config.adapters), core::DType::F32);
  HiddenProjectors projectors({.memory = memory}, config, models.student, models.teacher,
                              [](std::int64_t) { return true; });
  const core::ParameterList all = all_of(student, adapters, projectors);
  WholeStudent whole;
  whole.names = names_of(all);
  const core::ParameterList trained =
      optim::parameters_of(optim::apply_groups(all, optimizer_groups(config.optimizer)));
  whole.trained = names_of(trained);
  for (const core::Parameter* p : trained) whole.trainable += p->global_shape.numel();
  optim::check_some_trained(whole.trainable);
  return whole;
}

/// Notes what is sent for tables at a model's ends (parallel/axes/end_values.h), of all that is counted.
class NotedEnds final : public nn::EndWeights {
 public:
  NotedEnds(nn::EndWeights& ends, const parallel::TrafficLog& traffic) : ends_(ends), traffic_(traffic) {}

  void filled(core::Parameter& parameter) override { ends_.filled(parameter); }
  void free(nn::End end) override { ends_.free(end); }
  void bring(nn::End end) override {
    const std::vector<parallel::ExchangeCount> before = traffic_.entries();
    ends_.bring(end);
    const std::vector<parallel::ExchangeCount>& behind = traffic_.entries();  // in the same order, with new ones last
    for (std::size_t i = 0; i < behind.size(); ++i) {
      if (i == noted_.size())
        noted_.push_back({.group = behind[i].group, .operation = behind[i].operation, .ranks = behind[i].ranks});
      noted_[i].calls += behind[i].calls - (i < before.size() ? before[i].calls : 0);
      noted_[i].bytes += behind[i].bytes - (i < before.size() ? before[i].bytes : 0);
    }
  }
  /// To be called whenever the log is told to.
  void forget() { noted_.clear(); }
  std::vector<parallel::ExchangeCount> entries() const {
    std::vector<parallel::ExchangeCount> some = noted_;
    std::erase_if(some, [](const parallel::ExchangeCount& t) { return t.calls == 0; });
    return some;
  }

 private:
  nn::EndWeights& ends_;
  const parallel::TrafficLog& traffic_;
  std::vector<parallel::ExchangeCount> noted_;
};

class ImaginedRun {
 public:
  ImaginedRun(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, core::MemoryPtr memory)
      : config_(config), models_(models), world_(world), memory_(std::move(memory)), copy_(memory_) {}

  RankPlan on(const std::shared_ptr<parallel::WorldComm>& comm, const std::string& layout, int num_steps = 1) {
    const auto traffic = std::make_shared<parallel::TrafficLog>();
    std::shared_ptr<parallel::WorldComm> world = parallel::counted(comm, traffic);
    if (has_teacher_ranks(config_, models_)) {
      teacher_ranks_.emplace(world, static_cast<int>(config_.parallel.teacher_ranks), parallel::parse_layout(layout),
                             parallel::parse_layout(layout_of_teacher(config_)));
      world = teacher_ranks_->side();
    }
    Rank rank(world, layout, 1, config_.parallel.sequence_parallel, memory_, expert_exchange_of(config_.parallel));
    if (teacher_ranks_) rank.reach_teacher(*teacher_ranks_);
    if (has_relaid_teacher(config_, models_)) relaid_.emplace(rank, *comm, config_, models_, world_);
    records_steps(config_, rank);  // or it throws
    check_cut_sequences(config_, models_.student, rank.context_place());
    check_expert_choice(config_.routing, models_.student);
    plan_.pipeline = planned_pipeline(config_, models_, world_);
    plan_.stage = rank.mesh().pp().rank();
    MemoryParts& memory = plan_.memory;
    std::unique_ptr<nn::Transformer> teacher;
    if (models_.teacher) {
      teacher = imagined_teacher(rank, beside_head(rank, teacher_options(rank, config_.precision)), config_, models_,
                                 world_.expert_shares);
      memory.host = plan_.teacher_host = teacher->offloaded_bytes();
    }
    memory.teacher = plan_.teacher_bytes = taken();
    if (teacher_ranks_ && teacher_ranks_->takes_answers()) reach_teacher(*teacher);
    if (relaid_ && rank.is_last_stage())
      relaid_->teacher().keep_head(teacher->head().value, teacher->head_bias().value);
    std::optional<nn::Transformer> untrained;
    if (teacher && config_.objective.control == Control::Untrained) {
      untrained.emplace(*models_.teacher, among(rank, untrained_options(rank, config_.precision)));
      untrained->end_filling();
      plan_.teacher_host = untrained->offloaded_bytes();
      memory.host += plan_.teacher_host;
      plan_.teacher_bytes = taken();
      memory.teacher += plan_.teacher_bytes;
    }
    const nn::ModelOptions options = among(rank, student_options(rank, config_));
    nn::Transformer student(models_.student, plan_.pipeline.part_of(options, plan_.stage));
    std::optional<nn::Adapters> adapters;
    if (config_.adapters)
      adapters.emplace(student, adapter_options(*config_.adapters), config_.precision.master, options.place);
    HiddenProjectors projectors({.memory = memory_, .dtype = config_.precision.master, .place = options.place}, config_,
                                models_.student, models_.teacher,
                                [&](std::int64_t layer) { return plan_.pipeline.stage_of(layer) == plan_.stage; });
    const core::ParameterList all = all_of(student, adapters, projectors);
    memory.parameters = taken();
    const WholeStudent whole = whole_student(config_, models_);
    plan_.trainable = whole.trainable;
    const std::vector<optim::Trained> trained =
        optim::apply_groups(all, optimizer_groups(config_.optimizer), whole.names);
    if (config_.precision.quantised_weights != QuantisedWeights::None)
      for (const optim::Trained& t : trained)
        if (t.parameter->is_matrix()) t.parameter->rounding = [](std::span<float>) {};
    const std::int64_t bytes_at_once = bucket_bytes(config_.parallel);
    const core::ParameterList parameters = optim::parameters_of(trained);
    for (const core::Parameter* p : parameters)
      plan_.gradient_bytes += core::bytes_of(config_.precision.gradient, p->value.numel());
    parallel::GradientSync sync(parameters, rank.mesh(), memory_, config_.precision.gradient, bytes_at_once,
                                sharding_of(config_.parallel));
    memory.gradients = taken();
    parallel::SharedValues values(parameters, sync.groups(), bytes_at_once);
    memory.parameters += taken();
    const std::vector<optim::Trained> own = dealt(trained, sync.groups(), values);
    const std::vector<optim::Fragment> fragments = optim::fragments_of(own);
    count_optimizer(own, fragments);
    optim::Optimizer optimizer(
        own, optimizer_settings(config_.optimizer, memory_),
        [&mesh = rank.mesh()](const std::string& axis) -> core::Comm& { return mesh.along(axis); });
    if (deals_experts(config_.parallel, models_.student, rank.mesh()))
      check_experts_may_move(models_.student, rank.mesh(), optimizer);
    memory.optimizer = taken();
    nn::ModelWeights weights = values.weights();
    if (weights.ends != nullptr) weights.ends = &ends_.emplace(*weights.ends, *traffic);
    student.set_weights(weights);
    student.init_random(config_.train.seed);
    values.begin();
    memory.parameters += taken();
    optimizer.begin_training();
    memory.optimizer += taken();
    plan_.optimizer_host = optimizer.offloaded_bytes();
    memory.host += plan_.optimizer_host;
    values.gather();
    for (const core::Parameter* p : all) plan_.parameter_bytes += core::bytes_of(p->value.dtype(), p->value.numel());

    RunObjective objective(config_, models_.teacher.has_value());
    objective.begin_step(1, false);
    if (teacher_ranks_ || relaid_) prepare_teacher(teacher);
    const nn::Transformer* const beside = teacher_ranks_ || relaid_ ? nullptr : teacher.get();
    TrainingStep step(rank,
                      {.student = student,
                       .teacher = untrained ? &*untrained : beside,
                       .objective = objective.get(),
                       .remote = remote_.get(),
                       .relaid = relaid_ ? &relaid_->teacher() : nullptr},
                      sync, optimizer, values, fragments,
                      {.clip_norm = config_.optimizer.clip_norm, .names = whole.trained});
    memory.start = memory_->statistics().peak_bytes;
    const auto state = [&] {
      const bool is_elsewhere = config_.adapters && config_.model && !config_.model->source.empty();
      core::StateDict all_state =
          state_of(is_elsewhere ? nullptr : &student, fragments, adapters ? &*adapters : nullptr, optimizer);
      all_state.merge(projectors.state_dict());
      return all_state;
    };
    if (num_steps > 0) make_steps(rank, step, optimizer, *traffic, state, projectors.by_layer(), num_steps);
    memory.held = memory_->statistics().system_bytes;
    return plan_;
  }

  /// Seconds of each step that was made once all of it was there.
  const std::vector<double>& seconds() const { return seconds_; }

 private:
  nn::ModelOptions among(const Rank& rank, nn::ModelOptions options) const {
    return among_ranks(rank, std::move(options), config_, models_, world_.expert_shares);
  }

  /// One on ranks of its own, whose head is this one's.
  void reach_teacher(const nn::Transformer& teacher) {
    RemoteTeacher::Form form = form_of_imagined(config_, models_);
    form.fingerprint.resize(teacher_fingerprint_length);  // zeros, as all that comes of imagined ranks
    form.arrival = memory_->has_queue() ? core::Memory::imagined({}) : memory_;
    remote_ = std::make_unique<RemoteTeacher>(*teacher_ranks_, memory_, std::move(form));
    remote_->keep_head(teacher.head().value, teacher.head_bias().value);
    remote_->want_layers(asked_layers(config_, models_));
  }

  /// As Session::prepare_teacher: what started and measured beside the student goes, but for its head, where figures do
  /// not ask it, and that of steps is made.
  void prepare_teacher(std::unique_ptr<nn::Transformer>& teacher) {
    MemoryParts& memory = plan_.memory;
    taken();
    if (config_.evaluation.set.empty()) {
      memory.host -= teacher->offloaded_bytes();
      teacher.reset();
    }
    plan_.teacher_bytes = plan_.teacher_host = 0;
    if (relaid_) memory.host += relaid_->take();
    memory.teacher += taken();
  }

  /// As RunSteps::prefetch: the text of this step, unless it is on its way, and of the next.
  void ask_teacher(const Rank& rank, const StepText& text) {
    if (!remote_) return;
    const std::vector<data::TokenBatch> batches =
        batches_of(rank, text, config_.batch.micro_batches, /*are_whole=*/true);
    if (!remote_->has_asked()) remote_->ask(batches);
    remote_->ask(batches);
  }

  /// Newton and Schulz' five steps on [m,n], m <= n, are 5 (4 m m n + 2 m m m) operations (optim/newton_schulz.h).
  void count_optimizer(const std::vector<optim::Trained>& trained, const std::vector<optim::Fragment>& fragments) {
    for (const optim::Fragment& f : fragments) plan_.optimizer_values += f.length;
    for (const optim::Trained& t : trained) {
      const core::Parameter& p = *t.parameter;
      if (config_.optimizer.kind != OptimizerKind::Muon || t.group.adamw || !optim::is_hidden_matrix(p)) continue;
      const int rank = p.global_shape.rank();
      const auto rows = static_cast<double>(p.global_shape[rank - 2]),
                 columns = static_cast<double>(p.global_shape[rank - 1]);
      const double m = std::min(rows, columns), n = std::max(rows, columns),
                   matrices = p.is_stack ? static_cast<double>(p.value.shape()[0]) : 1;
      const double sharers = t.sharers.ranks != nullptr ? t.sharers.ranks->size() : 1;
      plan_.optimizer_flops += matrices / sharers * 5 * (4 * m * m * n + 2 * m * m * m);
    }
  }

  /// The copy of what is saved, in the memory of a CPU; of ranks that hold the same, that of the one that writes it.
  void copy(core::StateDict state) {
    if (!saves_beside_steps(config_.train) || memory_->has_queue()) return;
    for (auto& [name, entry] : state) entry.write = true;
    copy_.take(state);
  }

  void make_steps(Rank& rank, TrainingStep& step, optim::Optimizer& optimizer, parallel::TrafficLog& traffic,
                  const std::function<core::StateDict()>& state, const core::ParameterList& projectors,
                  int num_steps) {
    const StepText text = imagined_text(config_, models_.tokens);
    for (const data::TokenBatch& batch : batches_of(rank, text, config_.batch.micro_batches))
      plan_.num_tokens += std::ssize(batch.tokens);
    StepOptions options = step_options(config_, 0, distillation_options(config_, 1, false), models_.tokens);
    options.pipeline = &plan_.pipeline;
    if (models_.teacher) {
      options.hidden = hidden_match(config_.objective.hidden_states, models_.student, *models_.teacher, {});
      if (options.hidden) options.hidden->projectors = projectors;
      options.updates = update_matches(config_.objective, models_.student, *models_.teacher, {});
      options.routers = router_match(config_.objective.routers, models_.student, *models_.teacher, {});
    }
    const auto make = [&] {
      auto since = Clock::now();
      ask_teacher(rank, text);
      step.run(text, options, config_.optimizer.rate);
      optimizer.note_step();  // the weights are others
      return lap(since);
    };
    for (int i = 0; i < steps_until_all_is_made; ++i) make();
    if (relaid_) plan_.teacher_apart = relaid_->plan(text);
    taken();
    copy(state());
    plan_.memory.copy = taken();
    memory_->reset_peak();
    traffic.forget();
    if (ends_) ends_->forget();
    const std::int64_t given = memory_->given_bytes();
    seconds_ = {make()};
    const core::MemoryStatistics after = memory_->statistics();
    plan_.memory.other = after.used_bytes - plan_.memory.kept();
    plan_.memory.activations = after.peak_bytes - after.used_bytes;
    plan_.given_bytes = memory_->given_bytes() - given;
    if (relaid_) plan_.given_bytes -= plan_.teacher_apart->given_bytes;
    plan_.traffic = traffic.entries();
    if (ends_) plan_.waited = ends_->entries();
    while (std::ssize(seconds_) < num_steps) seconds_.push_back(make());
  }

  /// Since it was last asked.
  std::int64_t taken() {
    const std::int64_t now = memory_->statistics().used_bytes;
    return now - std::exchange(used_, now);
  }

  const RunConfig& config_;
  const PlannedModels& models_;
  const PlannedWorld& world_;
  core::MemoryPtr memory_;
  StateCopy copy_;
  std::optional<NotedEnds> ends_;  // of the student while its steps run
  std::optional<TeacherRanks> teacher_ranks_;
  std::unique_ptr<RemoteTeacher> remote_;
  std::optional<ImaginedRelaid> relaid_;
  std::int64_t used_ = 0;
  std::vector<double> seconds_;
  RankPlan plan_;
};

}  // namespace

Pipeline planned_pipeline(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  const parallel::Layout layout = parallel::parse_layout(layout_of_student(config, world.num_ranks));
  const int stages = std::max(layout.pp, 1);
  check_pipeline(config, models.student, stages);
  const double beside_head =
      teacher_runs_beside(config, models) ? nn::forward_flops_per_token(*models.teacher, config.data.sequence_length)
                                          : 0;
  return pipeline_of(config, models.student, stages,
                     {.beside_head = beside_head,
                      .readers = std::max(world.num_ranks / (stages * std::max(layout.tp, 1)), 1),
                      .on_gpu = world.device.has_queue});
}

namespace {

int stages_of(const RunConfig& config, const PlannedWorld& world) {
  return std::max(parallel::parse_layout(layout_of_student(config, world.num_ranks)).pp, 1);
}

int last_rank_of(const PlannedWorld& world, int stage, int num_stages) {
  return (stage + 1) * (world.num_ranks / num_stages) - 1;
}

RankPlan imagined(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, int rank,
                  int num_steps) {
  const std::string text = layout_of_student(config, world.num_ranks);
  parallel::check_world(parallel::parse_layout(text), world.num_ranks);
  if (models.teacher) {
    check_teacher_layout(config.parallel, world.num_ranks);
    check_teacher_cut(config, *models.teacher, world.num_ranks);
  }
  RankPlan plan;
  parallel::on_imagined_rank(
      has_teacher_ranks(config, models) ? num_planned_ranks(config, world) : world.num_ranks, rank,
      [&](const std::shared_ptr<parallel::WorldComm>& comm) {
        plan = ImaginedRun(config, models, world, core::Memory::imagined(world.device)).on(comm, text, num_steps);
      },
      [&](const std::shared_ptr<parallel::WorldComm>& comm) { make_imagined_groups(comm, config, models, world); },
      world.ranks_a_node);
  plan.rank = rank;
  return plan;
}

RankPlan imagined_stage(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, int stage,
                        int num_steps) {
  return imagined(config, models, world, last_rank_of(world, stage, stages_of(config, world)), num_steps);
}

/// Of each stage of the student's, and of a teacher's over the same ranks.
std::set<int> last_ranks(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  std::set<int> ranks;
  const auto add = [&](int num_stages) {
    for (int stage = 0; stage < num_stages; ++stage) ranks.insert(last_rank_of(world, stage, num_stages));
  };
  add(stages_of(config, world));
  if (has_relaid_teacher(config, models))
    add(std::max(parallel::parse_layout(config.parallel.teacher_layout).pp, 1));
  return ranks;
}

}  // namespace

RankPlan plan_stage(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, int stage) {
  return imagined_stage(config, models, world, stage, 1);
}

MemoryParts plan_state(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  return imagined_stage(config, models, world, stages_of(config, world) - 1, 0).memory;
}

void check_begins(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  for (int stage = 0; stage < stages_of(config, world); ++stage) imagined_stage(config, models, world, stage, 0);
}

RankPlan plan_student(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  const std::set<int> ranks = last_ranks(config, models, world);
  RankPlan most = imagined(config, models, world, *ranks.begin(), 1);
  for (const int rank : ranks) {
    if (rank == *ranks.begin()) continue;
    if (RankPlan plan = imagined(config, models, world, rank, 1); plan.memory.peak() > most.memory.peak())
      most = std::move(plan);
  }
  return most;
}

RankPlan plan_rank(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                   TeacherPlans& teachers) {
  RankPlan plan = plan_student(config, models, world);
  if (const TeacherPlan* teacher = teachers.of(config)) plan.teacher_apart = *teacher;
  return plan;
}

RankPlan plan_rank(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  TeacherPlans teachers(models, world);
  return plan_rank(config, models, world, teachers);
}

std::vector<double> seconds_of_steps(const RunConfig& config, const PlannedModels& models,
                                     const std::shared_ptr<parallel::WorldComm>& world, const core::MemoryPtr& memory,
                                     int num_steps) {
  const PlannedWorld planned{.num_ranks = world->size()};
  ImaginedRun run(config, models, planned, memory);
  run.on(world, layout_of_student(config, world->size()), num_steps);
  return run.seconds();
}

}  // namespace limbeck::launch
