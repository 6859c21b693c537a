#include "launch/plan/measured_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <utility>

#include "core/counted.h"
#include "launch/plan/automatic_layout.h"
#include "launch/plan/machine_rates.h"
#include "launch/plan/step_time.h"
#include "launch/run/devices.h"
#include "launch/run/heartbeat.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using World = std::shared_ptr<parallel::WorldComm>;

fs::path in_environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && fs::path(value).is_absolute() ? value : "";
}

/// Of the models whose steps are run: narrow and wider, dense and of experts, each with 1024 tokens a step.
struct Small {
  const char* name;
  const char* config;
};
constexpr std::array<Small, 4> small_models = {{
    {"dense, width 128", R"(
model { vocabulary: 512 width: 128 num_layers: 4 num_heads: 4 num_kv_heads: 2 mlp_width: 352 max_positions: 128 }
data { text: "t" tokenizer: "bytes" sequence_length: 128 } batch { sequences_per_step: 8 })"},
    {"dense, width 256", R"(
model { vocabulary: 4096 width: 256 num_layers: 4 num_heads: 4 num_kv_heads: 2 mlp_width: 704 max_positions: 256 }
data { text: "t" tokenizer: "bytes" sequence_length: 256 } batch { sequences_per_step: 4 })"},
    {"experts, width 128", R"(
model { vocabulary: 512 width: 128 num_layers: 4 num_heads: 4 num_kv_heads: 2 max_positions: 128
  moe { num_experts: 8 experts_per_token: 2 expert_width: 128 } }
data { text: "t" tokenizer: "bytes" sequence_length: 128 } batch { sequences_per_step: 8 })"},
    {"experts, width 256", R"(
model { vocabulary: 4096 width: 256 num_layers: 2 num_heads: 4 num_kv_heads: 2 max_positions: 256
  moe { num_experts: 8 experts_per_token: 2 expert_width: 256 } }
data { text: "t" tokenizer: "bytes" sequence_length: 256 } batch { sequences_per_step: 4 })"},
}};
constexpr std::array<std::pair<const char*, const char*>, 2> computes = {
    {{"float32", ""}, {"bfloat16", " precision { compute: BFLOAT16 }"}}};
constexpr int steps_each = 5;

class Measuring {
 public:
  Measuring(World world, const RunConfig& config, const Log& log)
      : world_(std::move(world)),
        alone_(world_->split(world_->rank(), 0, "alone")),
        memory_(memory_of_rank(config.train.device, threads_of_rank(config.train.threads))),
        log_(log) {
    Cluster& c = result_.cluster;
    std::map<int, int> ranks;  // by machine
    for (int r = 0; r < world_->size(); ++r)
      c.devices_a_node = std::max<std::int64_t>(c.devices_a_node, ++ranks[world_->node_of(r)]);
    c.nodes = std::ssize(ranks);
    c.name = "this machine, as measured";
    c.device = host_name();
    c.is_gpu = uses_gpu(config.train.device);
    c.threads = c.is_gpu ? 0 : threads_of_rank(config.train.threads);
    c.memory_gib = static_cast<double>(memory_of_rank_here(config, static_cast<int>(c.devices_a_node))) / (1LL << 30);
  }

  MachineMeasured run() {
    Cluster& c = result_.cluster;
    log_->info("measuring {} of this machine with {} a rank: products", core::counted(world_->size(), "rank"),
               core::counted(c.threads, "thread"));
    c.float32_tflops = mean([&] { return product_rate(memory_, core::DType::F32); }) / 1e12;
    c.bfloat16_tflops = mean([&] { return product_rate(memory_, core::DType::BF16); }) / 1e12;
    log_->info("memory, and what ranks send");
    c.memory_gb_s = mean([&] { return memory_rate(memory_); }) / 1e9;
    measure_links();
    log_->info("steps of {}", core::counted(std::ssize(small_models) * std::ssize(computes), "small model"));
    for (const Small& model : small_models)
      for (const auto& [compute, more] : computes) measure_step(model, compute, more);
    c.kernel_gb_s = fitted_kernel_rate(result_.steps);
    return std::move(result_);
  }

 private:
  double mean(const std::function<double()>& measure) {
    world_->barrier();
    return mean_over(*world_, measure());
  }

  /// Of ranks of one machine, and of the first ones of each.
  void measure_links() {
    Cluster& c = result_.cluster;
    const int node = world_->node_of(world_->rank());
    const World inside = world_->split(node, world_->rank(), "inside");
    const World between = world_->split(inside->rank(), world_->rank(), "between");
    if (c.devices_a_node > 1) c.inside = link_over(inside);
    if (c.nodes > 1) c.between = link_over(between);
  }

  /// Of the ranks that have others in such a group.
  ClusterLink link_over(const World& group) {
    const bool has_others = group->size() > 1;
    const ClusterLink here = has_others ? link_rate(group, memory_) : ClusterLink{.gb_s = 0, .latency_us = 0};
    const double part = mean_over(*world_, has_others ? 1 : 0);
    return {.gb_s = mean_over(*world_, here.gb_s) / part, .latency_us = mean_over(*world_, here.latency_us) / part};
  }

  void measure_step(const Small& model, const char* compute, const char* more) {
    const RunConfig config = parse_config(std::string(model.config) + more, model.name);
    const PlannedModels models{.student = config.model->architecture, .tokens = config.model->architecture.vocabulary};
    const double seconds = mean([&] {
      std::vector<double> all = seconds_of_steps(config, models, alone_, memory_, steps_each);
      std::ranges::sort(all);
      return all[all.size() / 2];
    });
    const PlannedWorld one{.num_ranks = 1, .device = result_.cluster.imagined()};
    const RankPlan plan = plan_rank(config, models, one);
    const auto planned = [&](double kernel_gb_s) {
      Cluster c = result_.cluster;
      c.kernel_gb_s = kernel_gb_s;
      return step_time(config, models, plan, one, c).seconds();
    };
    constexpr double no_time = 1e12;
    result_.steps.push_back({.name = fmt::format("{}, {}", model.name, compute),
                             .measured = seconds,
                             .fixed = planned(no_time),
                             .a_gb_s = planned(1) - planned(no_time)});
  }

  World world_, alone_;
  core::MemoryPtr memory_;
  Log log_;
  MachineMeasured result_;
};

}  // namespace

double fitted_kernel_rate(std::span<const MeasuredStep> steps) {
  double above = 0, below = 0;
  for (const MeasuredStep& step : steps) {
    const double slope = step.a_gb_s / step.measured;
    above += slope * (1 - step.fixed / step.measured);
    below += slope * slope;
  }
  constexpr double fastest = 1e6;  // where products alone are planned to take longer than the steps
  return above * fastest > below ? below / above : fastest;
}

fs::path machine_file(int ranks_a_machine) {
  fs::path cache = in_environment("XDG_CACHE_HOME");
  if (cache.empty() && !in_environment("HOME").empty()) cache = in_environment("HOME") / ".cache";
  return cache.empty() ? cache : cache / "limbeck" / fmt::format("{}_{}.textproto", host_name(), ranks_a_machine);
}

int threads_of(const RunConfig& config, int ranks_a_machine) {
  return config.train.threads > 0 ? static_cast<int>(config.train.threads)
                                  : std::max(1, cores_of_rank().machine / ranks_a_machine);
}

std::optional<Cluster> measured_machine(const RunConfig& config, int ranks_a_machine, int num_ranks, const Log& log) {
  const fs::path file = machine_file(ranks_a_machine);
  if (file.empty() || !fs::exists(file)) return std::nullopt;
  Cluster cluster = load_cluster(file);
  const int threads = uses_gpu(config.train.device) ? 0 : threads_of(config, ranks_a_machine);
  if (cluster.is_gpu != uses_gpu(config.train.device) || cluster.threads != threads) {
    log->info("{} is of ranks {}, the run's have {}: it is not used", file.string(),
              cluster.is_gpu ? "on GPUs" : "of " + core::counted(cluster.threads, "thread"),
              threads == 0 ? "GPUs" : core::counted(threads, "thread"));
    return std::nullopt;
  }
  cluster.nodes = (num_ranks + ranks_a_machine - 1) / ranks_a_machine;
  if (cluster.bus.gb_s == 0) cluster.bus = usual_cluster(config, ranks_a_machine, num_ranks, 0).bus;
  log->info("times are of this machine as it was measured: {}", file.string());
  return cluster;
}

MachineMeasured measure_machine(const World& world, const RunConfig& config, const Log& log) {
  return Measuring(world, config, log).run();
}

}  // namespace limbeck::launch
