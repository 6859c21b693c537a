#include "launch/plan/imagined_teacher.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "launch/plan/imagined_models.h"
#include "launch/run/run_models.h"
#include "launch/run/run_objective.h"
#include "launch/run/sharing.h"
#include "launch/run/teacher_service.h"
#include "parallel/axes/gradient_groups.h"
#include "parallel/imagined/imagined_world.h"

namespace limbeck::launch {
namespace {

using parallel::WorldComm;

constexpr int answers_until_all_is_made = 2;  // what an answer finds of the one before

/// What load_teacher reads.
LoadedTeacher loaded(const Rank& rank, const RunConfig& config, const PlannedModels& models,
                     const ExpertShares& shares) {
  const nn::ModelOptions options =
      on_stage(rank, teacher_options(rank, config.precision), *models.teacher, config.data.sequence_length);
  LoadedTeacher teacher;
  teacher.is_brought = options.offload_layers;
  teacher.model = imagined_teacher(rank, options, config, models, shares);
  return teacher;
}

void count_stages(TeacherPlan& plan, const Rank& rank, const RunConfig& config, const nn::ModelConfig& teacher) {
  plan.num_stages = rank.mesh().pp().size();
  std::int64_t most = 0;
  for (const core::Slice& layers : pipeline_without_head(teacher, config.data.sequence_length, plan.num_stages).layers)
    most = std::max(most, layers.count);
  plan.share = static_cast<double>(most) / static_cast<double>(teacher.num_layers);
}

TeacherRanks sides_of(const std::shared_ptr<WorldComm>& comm, const RunConfig& config, int num_students) {
  return {comm, static_cast<int>(config.parallel.teacher_ranks),
          parallel::parse_layout(layout_of_student(config, num_students)),
          parallel::parse_layout(layout_of_teacher(config))};
}

/// Of a rank of the teacher's, in a world of both sides.
TeacherPlan plan_of_side(const std::shared_ptr<WorldComm>& comm, const RunConfig& config, const PlannedModels& models,
                         const PlannedWorld& world) {
  TeacherPlan plan{.layout = layout_of_teacher(config), .num_ranks = static_cast<int>(config.parallel.teacher_ranks)};
  const core::MemoryPtr memory = core::Memory::imagined(world.device),
                        travelling = world.device.has_queue ? core::Memory::imagined({}) : memory;
  const auto traffic = std::make_shared<parallel::TrafficLog>();
  const TeacherRanks ranks = sides_of(parallel::counted(comm, traffic), config, world.num_ranks);
  Rank rank(ranks.side(), plan.layout, 1, /*sequence_parallel=*/false, memory, expert_exchange_of(config.parallel));
  const LoadedTeacher teacher = loaded(rank, config, models, world.expert_shares);
  plan.memory.teacher = plan.bytes = memory->statistics().used_bytes;
  plan.memory.host = plan.host = teacher.model->offloaded_bytes();
  plan.memory.start = memory->statistics().peak_bytes;
  count_stages(plan, rank, config, *models.teacher);
  const StepText text = imagined_text(config, models.tokens);
  const std::vector<std::int64_t> layers = asked_layers(config, models);
  TeacherService service(rank, ranks, teacher, config.data.sequence_length, travelling);
  std::int64_t micro = 0;
  const auto next = [&](int asker) {
    const auto [first, count] =
        sequences_of_pass(text.num_sequences, asker, ranks.num_askers(), micro, config.batch.micro_batches);
    plan.num_tokens += ranks.read_by(ranks.world().rank(), count).num_rows(config.data.sequence_length);
    return question_of(text.fetch(first, count), layers);
  };
  for (int i = 0; i < answers_until_all_is_made; ++i) service.answer_all(next);
  memory->reset_peak();
  traffic->forget();
  plan.num_tokens = 0;
  const std::int64_t given = memory->given_bytes(), all = config.batch.micro_batches;
  // Micro-batches of as many sequences are alike, but where stages meet after some: one is answered for all.
  const bool are_alike = plan.num_stages == 1 && text.num_sequences % (all * ranks.num_askers()) == 0;
  const std::int64_t alike = are_alike ? all : 1;
  for (micro = 0; micro < all / alike; ++micro) service.answer_all(next);
  plan.given_bytes = alike * (memory->given_bytes() - given);
  plan.num_tokens *= alike;
  plan.traffic = traffic->entries();
  for (parallel::ExchangeCount& t : plan.traffic) {
    t.calls *= alike;
    t.bytes *= alike;
  }
  const int questions = (ranks.num_askers() + ranks.num_replicas() - 1) / ranks.num_replicas();
  plan.passes = all * questions;
  const core::MemoryStatistics after = memory->statistics();
  plan.memory.other = after.used_bytes - plan.memory.teacher;
  plan.memory.activations = after.peak_bytes - after.used_bytes;
  plan.memory.held = after.system_bytes;
  return plan;
}

/// Of so many, the one whose askers have the most sequences of a step; of several the first.
int busiest_replica(const RunConfig& config, int num_students, int num_replicas) {
  const parallel::Layout student = parallel::parse_layout(layout_of_student(config, num_students));
  const int num_askers = num_students / (std::max(student.pp, 1) * std::max(student.cp, 1) * std::max(student.tp, 1));
  std::vector<std::int64_t> read(static_cast<std::size_t>(num_replicas));
  for (std::int64_t micro = 0; micro < config.batch.micro_batches; ++micro)
    for (int asker = 0; asker < num_askers; ++asker)
      read[static_cast<std::size_t>(asker % num_replicas)] +=
          sequences_of_pass(config.batch.sequences_per_step, asker, num_askers, micro, config.batch.micro_batches)
              .count;
  return static_cast<int>(std::ranges::max_element(read) - read.begin());
}

/// The memory of the one that takes more of it; of what passes read and give the more of each.
void take_most(TeacherPlan& most, const TeacherPlan& other) {
  if (other.memory.peak() > most.memory.peak()) most.memory = other.memory;
  for (const auto figure :
       {&TeacherPlan::bytes, &TeacherPlan::host, &TeacherPlan::num_tokens, &TeacherPlan::given_bytes})
    most.*figure = std::max(most.*figure, other.*figure);
}

}  // namespace

std::string layout_of_student(const RunConfig& config, int num_ranks) {
  return config.parallel.layout.empty() ? fmt::format("dp{}", num_ranks) : config.parallel.layout;
}

std::string layout_of_teacher(const RunConfig& config) {
  const ParallelConfig& parallel = config.parallel;
  return parallel.teacher_layout.empty() ? fmt::format("dp{}", parallel.teacher_ranks) : parallel.teacher_layout;
}

void make_imagined_groups(const std::shared_ptr<WorldComm>& comm, const RunConfig& config, const PlannedModels& models,
                          const PlannedWorld& world) {
  const parallel::ExpertExchange exchange = expert_exchange_of(config.parallel);
  std::shared_ptr<WorldComm> side = comm;
  if (has_teacher_ranks(config, models)) {
    const TeacherRanks ranks = sides_of(comm, config, world.num_ranks);
    side = ranks.side();
    if (ranks.is_teacher()) {
      parallel::Mesh(side, parallel::parse_layout(layout_of_teacher(config)), exchange);
      return;
    }
  }
  const parallel::Mesh mesh(side, parallel::parse_layout(layout_of_student(config, world.num_ranks)), exchange);
  if (has_relaid_teacher(config, models))
    parallel::Mesh(comm->split(0, comm->rank(), "teacher"), parallel::parse_layout(config.parallel.teacher_layout),
                   exchange);
  parallel::GradientGroups(mesh, sharding_of(config.parallel));
}

RemoteTeacher::Form form_of_imagined(const RunConfig& config, const PlannedModels& models) {
  const core::DType compute = teacher_compute(config.precision);
  return {.width = models.teacher->width, .hidden = compute, .stream = core::sum_dtype(compute)};
}

std::vector<std::int64_t> asked_layers(const RunConfig& config, const PlannedModels& models) {
  const auto match = hidden_match(config.objective.hidden_states, models.student, *models.teacher, {});
  return match ? match->asked_layers() : std::vector<std::int64_t>();
}

ImaginedRelaid::ImaginedRelaid(const Rank& rank, WorldComm& all, const RunConfig& config, const PlannedModels& models,
                               const PlannedWorld& world)
    : config_(config),
      models_(models),
      world_(world),
      traffic_(std::make_shared<parallel::TrafficLog>()),
      side_(parallel::counted(all.split(0, all.rank(), "teacher"), traffic_), config.parallel.teacher_layout, 1,
            /*sequence_parallel=*/false, rank.memory(), expert_exchange_of(config.parallel)),
      teacher_(rank, side_, form_of_imagined(config, models)),
      plan_{.layout = config.parallel.teacher_layout, .num_ranks = all.size()} {
  count_stages(plan_, side_, config, *models.teacher);
}

std::int64_t ImaginedRelaid::take() {
  const std::int64_t before = side_.memory()->statistics().used_bytes;
  LoadedTeacher teacher = loaded(side_, config_, models_, world_.expert_shares);
  plan_.bytes = side_.memory()->statistics().used_bytes - before;
  plan_.host = teacher.model->offloaded_bytes();
  plan_.passes = teacher_.num_passes(config_.batch.sequences_per_step, config_.batch.micro_batches, teacher.is_brought);
  teacher_.take(std::move(teacher), config_.data.sequence_length);
  teacher_.want_layers(asked_layers(config_, models_));
  return plan_.host;
}

TeacherPlan ImaginedRelaid::plan(const StepText& text) {
  traffic_->forget();
  const std::int64_t given = side_.memory()->given_bytes();
  teacher_.read(text, config_.batch.micro_batches);
  plan_.given_bytes = side_.memory()->given_bytes() - given;
  plan_.traffic = traffic_->entries();
  const int num_ranks = side_.world().size(), here = side_.world().rank();
  const ReaderPlace place = place_of_reader(side_.mesh().layout(), num_ranks, here);
  plan_.num_tokens = 0;
  for (std::int64_t pass = 0; pass < plan_.passes; ++pass)
    plan_.num_tokens += read_by(place, text.num_sequences, pass, plan_.passes).num_rows(config_.data.sequence_length);
  return plan_;
}

TeacherPlan plan_teacher_ranks(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  const parallel::Layout layout = parallel::parse_layout(layout_of_teacher(config));
  const auto num_teachers = static_cast<int>(config.parallel.teacher_ranks);
  PlannedModels own = models;
  if (models.teacher_vocabulary > 0) own.teacher->vocabulary = models.teacher_vocabulary;
  const int stages = std::max(layout.pp, 1), of_stage = num_teachers / stages,
            of_replica = std::max(layout.tp, 1) * std::max(layout.cp, 1);
  std::map<int, TeacherPlan> plans;  // by rank of the teacher's
  const auto plan_of = [&](int watched) -> const TeacherPlan& {
    if (const auto known = plans.find(watched); known != plans.end()) return known->second;
    TeacherPlan& plan = plans[watched];
    parallel::on_imagined_rank(
        world.num_ranks + num_teachers, world.num_ranks + watched,
        [&](const std::shared_ptr<WorldComm>& comm) { plan = plan_of_side(comm, config, own, world); },
        [&](const std::shared_ptr<WorldComm>& comm) { make_imagined_groups(comm, config, own, world); },
        world.ranks_a_node);
    return plan;
  };
  const int first = of_replica * busiest_replica(config, world.num_ranks, of_stage / of_replica);
  std::set<int> watched = {first + of_replica - 1};  // of each stage
  if (config.precision.sharded_teacher) watched.insert(of_stage - 1);
  TeacherPlan most = plan_of(*watched.begin());
  for (int stage = 0; stage < stages; ++stage)
    for (const int rank : watched) take_most(most, plan_of(stage * of_stage + rank));
  most.traffic = plan_of((stages - 1) * of_stage + first).traffic;
  return most;
}

const TeacherPlan* TeacherPlans::of(const RunConfig& config) {
  if (!has_teacher_ranks(config, models_)) return nullptr;
  const parallel::Layout student = parallel::parse_layout(layout_of_student(config, world_.num_ranks));
  const std::array<std::int64_t, 4> key = {student.pp, student.cp, student.tp, config.batch.micro_batches};
  auto known = plans_.find(key);
  if (known == plans_.end()) known = plans_.emplace(key, plan_teacher_ranks(config, models_, world_)).first;
  return &known->second;
}

}  // namespace limbeck::launch
