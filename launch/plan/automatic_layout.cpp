#include "launch/plan/automatic_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/counted.h"
#include "gpu_facts.h"
#include "launch/plan/measured_machine.h"
#include "launch/run/available_memory.h"
#include "launch/run/devices.h"
#include "launch/run/rank.h"
#include "launch/run/run_config.h"
#include "launch/run/run_directory.h"
#include "launch/run/run_facts.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/threads.h"
#include "parallel/axes/mesh.h"

namespace limbeck::launch {
namespace {

using World = std::shared_ptr<parallel::WorldComm>;

constexpr double usable = 0.9;  // of what is available: programs, text and libraries are beside what is planned
constexpr double gib = 1LL << 30;

double in_gib(std::int64_t bytes) { return static_cast<double>(bytes) / gib; }

std::string of_planned(const PlannedLayout& layout, const RunConfig& config, const Cluster& cluster) {
  const bool has_teacher = config.parallel.teacher_ranks > 0 && layout.plan.teacher_apart;
  return fmt::format(
      "parallel.layout auto: {}: planned are {:.3f} GiB a rank{}, of {:.3f} that it may take, and {:.4g} ms a step, "
      "the least of the layouts that fit",
      layout.text(), in_gib(layout.plan.memory.held),
      has_teacher ? fmt::format(", {:.3f} one of the teacher's", in_gib(layout.plan.teacher_apart->memory.held)) : "",
      cluster.memory_gib, 1e3 * layout.time.seconds());
}

/// Bytes, which the system has said if there are some.
std::int64_t said_memory(std::int64_t bytes) {
  if (bytes == 0)
    core::fail_usage(
        "parallel.layout is auto, but the system does not say how much memory is available, expected a layout");
  return bytes;
}

/// A length does not change what fits.
RunConfig of_some_steps(RunConfig config) {
  config.train.epochs.reset();
  config.train.tokens.reset();
  config.train.steps = std::max<std::int64_t>(config.train.steps, 1);
  return config;
}

/// What a run's directory has, where so many ranks were at it last.
std::optional<PlannedLayout> kept(const std::filesystem::path& run, const ParallelConfig& now, int num_ranks) {
  if (!RunDirectory::is_run(run)) return std::nullopt;
  const RunConfig config = load_config({RunDirectory(run).config()});
  const RunFacts facts = run_facts_from_json(read_start_file(run), run.string());
  if (config.parallel.layout.empty() || is_automatic(config) || facts.starts.empty() ||
      facts.starts.back().ranks != num_ranks || config.parallel.teacher_ranks != now.teacher_ranks ||
      config.parallel.teacher_layout != now.teacher_layout)
    return std::nullopt;
  PlannedLayout layout{config.parallel.layout, config.parallel.shard, config.parallel.sequence_parallel,
                       config.train.recompute, config.parallel.shard_ranks};
  if (parallel::parse_layout(layout.layout).pp > 1) layout.work = work_of(config);
  return layout;
}

}  // namespace

Cluster usual_cluster(const RunConfig& config, int ranks_a_machine, int num_ranks, std::int64_t memory_bytes) {
  Cluster cluster{.name = "this machine",
                  .nodes = (num_ranks + ranks_a_machine - 1) / ranks_a_machine,
                  .devices_a_node = ranks_a_machine,
                  .memory_gib = in_gib(memory_bytes),
                  .between = {.gb_s = 1.2, .latency_us = 50}};
  cluster.is_gpu = uses_gpu(config.train.device);
  if (cluster.is_gpu) {  // examples/clusters/h100_node.textproto
    cluster.float32_tflops = 30;
    cluster.bfloat16_tflops = 450;
    cluster.memory_gb_s = 2400;
    cluster.inside = {.gb_s = 350, .latency_us = 10};
    cluster.between = {.gb_s = 42, .latency_us = 20};
    cluster.bus = {.gb_s = 50};
    return cluster;
  }
  constexpr double tflops_a_core = 0.06, gb_s_a_machine = 25;  // examples/clusters/laptop.textproto
  cluster.float32_tflops = cluster.bfloat16_tflops = tflops_a_core * threads_of(config, ranks_a_machine);
  cluster.memory_gb_s = gb_s_a_machine / ranks_a_machine;
  cluster.inside = {.gb_s = 3, .latency_us = 20};
  return cluster;
}

Cluster machine_cluster(const RunConfig& config, int ranks_a_machine, int num_ranks, std::int64_t memory_bytes,
                        const Log& log) {
  const Cluster usual = usual_cluster(config, ranks_a_machine, num_ranks, memory_bytes);
  std::optional<Cluster> measured = measured_machine(config, ranks_a_machine, num_ranks, log);
  if (!measured) return usual;
  measured->memory_gib = usual.memory_gib;
  if (measured->between.gb_s == 0) measured->between = usual.between;
  return *measured;
}

std::int64_t part_of_memory_here(const RunConfig& config, int sharers) {
  const std::int64_t available =
      uses_gpu(config.train.device) ? kernels::free_gpu_bytes(gpu_of_rank()) : available_memory();
  return std::llround(usable * static_cast<double>(available) / sharers);
}

std::int64_t memory_of_rank_here(const RunConfig& config, int ranks_a_machine) {
  const int memories = uses_gpu(config.train.device) ? kernels::num_gpus() : 1;
  return said_memory(part_of_memory_here(config, (ranks_a_machine + memories - 1) / memories));
}

int sharers_here(parallel::WorldComm& world, const std::string& mine) {
  const std::vector<std::string> all = gather_strings(world, mine);
  int sharers = 0;
  for (int r = 0; r < world.size(); ++r)
    if (world.node_of(r) == world.node_of(world.rank()) && all[static_cast<std::size_t>(r)] == mine) ++sharers;
  return sharers;
}

int most_ranks_a_machine(parallel::WorldComm& world) {
  std::map<int, int> ranks;
  int most = 0;
  for (int r = 0; r < world.size(); ++r) most = std::max(most, ++ranks[world.node_of(r)]);
  return most;
}

std::int64_t least_over_ranks(core::Comm& world, std::int64_t mine) {
  const std::int64_t value = -mine;
  core::Tensor all = core::Tensor::from<std::int64_t>(core::Memory::cpu(1), {1}, {&value, 1});
  world.all_reduce(all, core::Reduce::Max);
  return -core::host_values<std::int64_t>(all)[0];
}

PlannedLayout automatic_layout(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                               const Cluster& cluster) {
  std::vector<PlannedLayout> found = best_layouts(config, models, world, cluster, 1);
  if (!found.empty()) return std::move(found.front());
  const std::string ranks = core::counted(world.num_ranks, "rank");
  const std::optional<PlannedLayout> smallest = smallest_layout(config, models, world, cluster);
  if (!smallest)
    core::fail_usage(
        "parallel.layout is auto, but no layout of {} gives each a sequence in each of its passes, expected more than "
        "batch.sequences_per_step = {}, or fewer ranks",
        ranks, config.batch.sequences_per_step);
  const std::int64_t least = smallest->plan.most_held();
  core::fail(
      "parallel.layout is auto, but no layout of {} fits into the {:.3f} GiB that a rank may take: the smallest need "
      "is {:.3f} GiB, of {}{}",
      ranks, cluster.memory_gib, in_gib(least),
      least > smallest->plan.memory.held ? "a rank of the teacher's beside " : "", smallest->text());
}

void take_layout(const World& world, RunConfig& config, const std::optional<std::filesystem::path>& run,
                 const Log& log) {
  if (!is_automatic(config)) return;
  Rank rank(world, fmt::format("dp{}", world->size()), 1);
  const int ranks_a_machine = most_ranks_a_machine(*world);
  const int sharers = sharers_here(*world, bus_of_rank(config.train.device));
  const std::int64_t memory = said_memory(least_over_ranks(*world, part_of_memory_here(config, sharers)));
  RunConfig chosen = config;
  std::string why;
  on_first_rank(rank, [&] {
    if (const auto before = run ? kept(*run, config.parallel, world->size()) : std::nullopt) {
      chosen = under(config, *before);
      why = fmt::format("parallel.layout auto: {}, with which the run went before", before->text());
      return;
    }
    const PlannedModels models = planned_models(config, log, "parallel.layout auto");
    const Cluster cluster = machine_cluster(config, ranks_a_machine, world->size(), memory, log);
    const PlannedWorld planned{.num_ranks = num_students(config, world->size()),
                               .device = cluster.imagined(),
                               .ranks_a_node = ranks_a_machine};
    const PlannedLayout taken = automatic_layout(of_some_steps(config), models, planned, cluster);
    chosen = under(config, taken);
    why = of_planned(taken, config, cluster);
  });
  config = parse_config(gather_strings(*world, to_textproto(chosen)).front(), "the first rank's choice");
  if (!why.empty()) log->info("{}", why);
}

}  // namespace limbeck::launch
