#include "launch/plan/memory_warning.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <vector>

#include "core/counted.h"
#include "core/share.h"
#include "launch/plan/automatic_layout.h"
#include "launch/run/devices.h"

namespace limbeck::launch {
namespace {

constexpr std::int64_t little = 20;  // less than one part in so many is no reason to plan steps

double in_gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1LL << 30); }

/// Collective: what this rank may take, with what an earlier run has left free in its memory; 0 where nobody knows.
std::int64_t may_take_here(const RunConfig& config, parallel::WorldComm& world, const core::Memory& memory) {
  const std::int64_t known = part_of_memory_here(config, sharers_here(world, bus_of_rank(config.train.device)));
  const core::MemoryStatistics own = memory.statistics();
  return known == 0 ? 0 : known + own.system_bytes - own.used_bytes;
}

}  // namespace

std::int64_t state_bound(const RunConfig& config, const PlannedModels& models, int num_ranks) {
  const parallel::Layout layout =
      config.parallel.layout.empty() ? parallel::Layout{} : parallel::parse_layout(config.parallel.layout);
  const auto ranks = [](int axis) { return std::max(axis, 1); };
  const nn::ModelConfig& student = models.student;
  const PrecisionConfig& precision = config.precision;
  const bool is_dealt = config.parallel.shard == Shard::Parameters && config.parallel.shard_ranks == 0 &&
                        !config.adapters;  // whose model is not
  const int of_stage = ranks(num_ranks / ranks(layout.pp)), ep = ranks(layout.ep), etp = ranks(layout.etp);
  double part = 1.0 / (is_dealt ? of_stage : ranks(layout.tp));
  if (const std::int64_t experts = student.moe.num_experts; experts > 0) {
    const std::int64_t fullest = core::slice_of(experts, ep - 1, ep).count,
                       sharers = is_dealt ? ranks(of_stage / (ep * etp)) : 1,
                       rows = core::share_of({fullest, sharers, 1}, sharers - 1, sharers).count;
    part = std::max(part, static_cast<double>(rows) / static_cast<double>(experts * sharers * etp));
  }
  std::int64_t whole = 0, teacher = 0;
  // An embedding that both ends of a pipeline have is not gathered.
  if (is_dealt && ranks(layout.pp) > 1 && (student.tied_head || student.num_predict_layers > 0))
    whole = student.vocabulary * student.width;
  if (models.teacher)
    teacher = core::bytes_of(precision.frozen_storage, nn::count_parameters(*models.teacher).total);
  if (has_relaid_teacher(config, models) && !config.evaluation.set.empty()) teacher *= 2;  // sets ask one beside it
  const std::int64_t values = nn::count_parameters(student).total,
                     read = precision.bfloat16_weights ? core::bytes_of(core::DType::BF16, values) : 0,
                     kept = 4 * core::bytes_of(precision.master, values);  // and gradients, and two moments
  return static_cast<std::int64_t>(part * static_cast<double>(read + kept)) + core::bytes_of(precision.master, whole) +
         teacher;
}

namespace {

/// What takes less, by setting.
std::string how_to_take_less(const RankPlan& plan) {
  std::string how = "parallel.shard, train.recompute, more batch.micro_batches and other layouts take less";
  if (!plan.is_of_stages()) return how;
  const parallel::PipelineSchedule& schedule = plan.pipeline.schedule;
  const int held = parallel::peak_activations(schedule)[static_cast<std::size_t>(plan.stage)],
            chunks = schedule.num_chunks, micro_batches = schedule.num_micro_batches;
  const int of_one_f_one_b = std::min(micro_batches, schedule.num_stages() - plan.stage);
  const std::string kept = chunks > 1 ? core::counted(held, "chunk")
                                      : fmt::format("{} micro-batch{}", held, held == 1 ? "" : "es");
  how += fmt::format("; stage {} keeps activations of up to {} at once, of batch.micro_batches = {}", plan.stage, kept,
                     micro_batches);
  if (chunks * of_one_f_one_b < held)
    how += fmt::format(", of {} with parallel.schedule ONE_F_ONE_B{}", of_one_f_one_b,
                       chunks > 1 ? " and parallel.chunks 1" : "");
  return how;
}

}  // namespace

std::int64_t passes_bound(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world) {
  const Pipeline pipeline = planned_pipeline(config, models, world);
  const parallel::PipelineSchedule& schedule = pipeline.schedule;
  const int stages = schedule.num_stages();
  const parallel::Layout layout =
      config.parallel.layout.empty() ? parallel::Layout{} : parallel::parse_layout(config.parallel.layout);
  const double ranks = std::max(1, world.num_ranks / (stages * std::max(layout.tp, 1)));
  const double tokens = static_cast<double>(config.batch.sequences_per_step * config.data.sequence_length) /
                        (ranks * schedule.num_micro_batches * std::max(layout.tp, 1));
  const auto read = static_cast<double>(core::bytes_of(config.precision.master, models.student.width));
  const std::vector<LayerWork> layers = work_of_layers(config, models.student);
  const std::vector<int> held = parallel::peak_activations(schedule);
  double most = 0;
  for (int v = 0; v < schedule.num_virtual_stages(); ++v) {
    const core::Slice& part = pipeline.layers[static_cast<std::size_t>(v)];
    double bytes = 0;  // of a token
    for (std::int64_t layer = part.first; layer < part.first + part.count; ++layer)
      bytes += config.train.recompute ? read : layers[static_cast<std::size_t>(layer)].given.forward;
    most = std::max(most, bytes * held[static_cast<std::size_t>(v % stages)]);
  }
  return std::llround(most * tokens);
}

std::optional<std::string> memory_warning(const RunConfig& config, const PlannedModels& models,
                                          const PlannedWorld& world, std::int64_t may_take) {
  if (not_planned(config) != nullptr) return std::nullopt;
  try {
    const std::int64_t passes = passes_bound(config, models, world);
    if (state_bound(config, models, world.num_ranks) + passes < may_take / little) return std::nullopt;
    RunConfig waits = config;
    waits.train.save_in_background = false;  // as steps do where a copy has no room
    const std::int64_t state = plan_state(waits, models, world).kept();
    if (state + passes < may_take / little) return std::nullopt;
    const RankPlan plan = plan_student(waits, models, world);
    const std::int64_t held = plan.memory.held;
    if (held <= may_take) return std::nullopt;
    return fmt::format(
        "a rank is planned to take {:.3f} GiB of memory, {:.3f} of them before its first step, and may take {:.3f}, "
        "its part of nine tenths of what is available: where memory ends, the system ends a rank and says nothing. "
        "limbeck plan says what takes it; {}",
        in_gib(held), in_gib(state), in_gib(may_take), how_to_take_less(plan));
  } catch (const std::exception&) {
    return std::nullopt;  // what is wrong with the config the run says itself; a plan that fails is none
  }
}

void warn_of_memory(const Session& session, const nn::ModelConfig& student, const nn::ModelConfig* teacher,
                    const Log& log) {
  const RunConfig& config = session.config;
  Rank& rank = session.rank;
  parallel::WorldComm& among = rank.mesh().world();
  const int ranks_a_machine = most_ranks_a_machine(among);
  const std::int64_t may_take = least_over_ranks(among, may_take_here(config, among, *rank.memory()));
  if (may_take == 0) return;
  PlannedModels models{.student = student, .tokens = session.tokenizer->vocabulary_size()};
  if (teacher != nullptr) {
    models.teacher = *teacher;
    models.teacher->vocabulary = student.vocabulary;  // logits stand beside logits
  }
  const int num_ranks = rank.world().size();
  const PlannedWorld world{.num_ranks = num_ranks,
                           .device = usual_cluster(config, ranks_a_machine, num_ranks, may_take).imagined(),
                           .ranks_a_node = ranks_a_machine};
  on_first_rank(rank, [&] {
    if (const auto warning = memory_warning(config, models, world, may_take)) log->warn("{}", *warning);
  });
}

}  // namespace limbeck::launch
