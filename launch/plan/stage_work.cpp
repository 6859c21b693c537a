#include "launch/plan/stage_work.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <utility>

#include "parallel/axes/mesh.h"

namespace limbeck::launch {
namespace {

constexpr std::array<std::string_view, 3> schedule_names = {"ONE_F_ONE_B", "INTERLEAVED", "ZERO_BUBBLE"};

std::string_view name_of(PipelineKind schedule) { return schedule_names[static_cast<std::size_t>(schedule)]; }

parallel::Layout layout_of(const RunConfig& config) { return parallel::parse_layout(config.parallel.layout); }

/// The config's, and others that divide a step's sequences.
std::vector<std::int64_t> tried_micro_batches(const RunConfig& config, int num_ranks) {
  const std::int64_t own = config.batch.micro_batches, sequences = config.batch.sequences_per_step;
  std::vector<std::int64_t> tried = {own};
  if (config.moe_loss.balance_scope == nn::BalanceScope::GlobalBatch) return tried;
  const parallel::Layout layout = layout_of(config);
  const std::int64_t replicas = num_ranks / (layout.pp * std::max(layout.tp, 1) * std::max(layout.cp, 1));
  for (const std::int64_t a_stage : {1, 2, 4}) {
    std::int64_t count = a_stage * layout.pp;
    while (count > own && sequences % (replicas * count) != 0) --count;
    if (count > tried.back()) tried.push_back(count);
  }
  return tried;
}

/// Sums of gradients, of the norm over all of the student's ranks (which TeacherRanks names where a teacher has others)
/// and of figures over stages.
bool is_once_a_step(const parallel::ExchangeCount& traffic) {
  return traffic.group == "world" || traffic.group == "student" ||
         (traffic.group == "pp" && traffic.operation == "all_reduce") || is_of_gradients(traffic);
}

/// What comes with each pass goes in as many parts as there are micro-batches, what stages send also in each chunk.
void divide(std::vector<parallel::ExchangeCount>& traffic, const StageWork& work) {
  for (parallel::ExchangeCount& t : traffic) {
    const bool is_sent = t.operation == "send";
    if (is_once_a_step(t)) continue;
    t.calls *= work.micro_batches * (is_sent ? work.chunks : 1);
    t.bytes *= is_sent ? work.chunks : 1;
  }
}

}  // namespace

std::vector<std::string> StageWork::sets() const {
  return {fmt::format("parallel.schedule={}", name_of(schedule)), fmt::format("parallel.chunks={}", chunks),
          fmt::format("parallel.stages=[{}]", fmt::join(layers, ", ")),
          fmt::format("batch.micro_batches={}", micro_batches)};
}

std::string StageWork::text() const {
  std::string text(name_of(schedule));
  if (chunks > 1) text += fmt::format(", {} chunks", chunks);
  return text + fmt::format(", {} micro-batch{}", micro_batches, micro_batches == 1 ? "" : "es");
}

StageWork work_of(const RunConfig& config) {
  return {config.parallel.schedule, config.parallel.chunks, config.parallel.stages, config.batch.micro_batches};
}

RunConfig with_work(RunConfig config, const StageWork& work) {
  config.parallel.schedule = work.schedule;
  config.parallel.chunks = work.chunks;
  config.parallel.stages = work.layers;
  config.batch.micro_batches = work.micro_batches;
  return config;
}

std::vector<StageWork> tried_work(const RunConfig& config, const PlannedModels& models, int num_ranks) {
  std::vector<StageWork> tried;
  for (const std::int64_t micro_batches : tried_micro_batches(config, num_ranks))
    for (const auto& [schedule, chunks] :
         {std::pair(PipelineKind::OneFOneB, 1), {PipelineKind::ZeroBubble, 1}, {PipelineKind::ZeroBubble, 2}})
      if (chunks == 1 || chunks * layout_of(config).pp <= models.student.num_layers)
        tried.push_back({.schedule = schedule, .chunks = chunks, .micro_batches = micro_batches});
  return tried;
}

StageWork smallest_work(const RunConfig& config, int num_ranks) {
  return {.micro_batches = tried_micro_batches(config, num_ranks).back()};
}

WorkEstimate fastest_work(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                          const Cluster& cluster, TeacherPlans& teachers) {
  const int stages = layout_of(config).pp;
  const RankPlan pass = plan_stage(with_work(config, StageWork{}), models, world, stages - 1);
  WorkEstimate best{.work = {}, .seconds = std::numeric_limits<double>::infinity()};
  for (StageWork& work : tried_work(config, models, world.num_ranks)) {
    const RunConfig worked = with_work(config, work);
    RankPlan step = pass;
    step.pipeline = planned_pipeline(worked, models, world);
    divide(step.traffic, work);
    step.teacher_apart.reset();
    if (const TeacherPlan* teacher = teachers.of(worked)) step.teacher_apart = *teacher;
    const double seconds = step_time(worked, models, step, world, cluster).seconds();
    if (seconds < best.seconds) best = {std::move(work), seconds};
  }
  return best;
}

}  // namespace limbeck::launch
