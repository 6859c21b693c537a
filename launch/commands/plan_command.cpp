// `limbeck plan`: what a run takes, before anything is launched.

#include <fmt/format.h>

#include "core/counted.h"
#include "data/files/json_text.h"
#include "launch/commands/commands.h"
#include "launch/console/columns.h"
#include "launch/console/streams.h"
#include "launch/plan/automatic_layout.h"
#include "launch/plan/expert_shares.h"
#include "launch/plan/measured_machine.h"
#include "launch/plan/plan_text.h"
#include "launch/plan/planned_text.h"
#include "launch/run/rank.h"
#include "launch/run/run_config.h"

namespace limbeck::launch {
namespace {

constexpr std::size_t most_layouts = 10;  // that are proposed

/// The config by which a run would go.
RunConfig config_of(const PlanOptions& options) {
  RunConfig config = load_given_config(options.configs, options.sets);
  name_reference(config);
  config.teacher && !config.objective.preference ? check_for_distill(config) : check_for_train(config);
  return config;
}

/// Of a text whose tokens are there an epoch is known, of another not.
void resolve_length(Plan& plan) {
  plan.sequences_an_epoch = sequences_an_epoch(with_paths_found(plan.config), *plan.models.tokenizer);
  const TrainConfig& train = plan.config.train;
  if (train.epochs && !plan.sequences_an_epoch)
    core::fail_usage(
        "plan: train.epochs is {}, but the tokens of the text are not there yet (limbeck tokenize, or a run's first "
        "step makes them), expected train.steps or train.tokens",
        *train.epochs);
  resolve_steps(plan.config, plan.sequences_an_epoch.value_or(0));
}

std::string measured_text(const MachineMeasured& machine) {
  const Cluster& c = machine.cluster;
  std::string text = fmt::format(
      "a rank, of {} on {}: {:.3g} GFLOP/s of products in float32, {:.3g} in bfloat16; memory {:.3g} GB/s, other "
      "kernels {:.3g} GB/s of tensors\n",
      core::counted(c.num_devices(), "rank"), c.device, 1e3 * c.float32_tflops, 1e3 * c.bfloat16_tflops, c.memory_gb_s,
      c.kernel_gb_s);
  for (const auto& [where, link] : {std::pair("within a machine", c.inside), {"between machines", c.between}})
    if (link.gb_s > 0) text += fmt::format("exchanges {}: {:.3g} GB/s, {:.3g} us\n", where, link.gb_s, link.latency_us);
  std::vector<std::vector<std::string>> rows = {{"a step of", "measured", "planned", ""}};
  for (const MeasuredStep& step : machine.steps)
    rows.push_back({step.name, fmt::format("{:.2f} ms", 1e3 * step.measured),
                    fmt::format("{:.2f} ms", 1e3 * step.planned(c.kernel_gb_s)),
                    fmt::format("{:+.0f} %", 100 * (step.planned(c.kernel_gb_s) / step.measured - 1))});
  return text + aligned(rows, 2);
}

/// Collective: measures this machine, which the first rank says and keeps.
int calibrate(const PlanOptions& options) {
  const RunConfig config;
  with_world(config, "plan --calibrate\n", [&](const std::shared_ptr<parallel::WorldComm>& world) {
    const MachineMeasured machine = measure_machine(world, config, make_log(world->rank(), options.verbosity));
    if (world->rank() != 0) return;
    std::filesystem::path file = options.calibrated;
    if (file.empty()) file = machine_file(static_cast<int>(machine.cluster.devices_a_node));
    if (file.empty())
      core::fail_usage("plan: neither XDG_CACHE_HOME nor HOME is a folder, expected --calibrate FILE.textproto");
    const std::string text = measured_text(machine);
    save_cluster(file, machine.cluster, "Measured by limbeck plan --calibrate:\n" + text);
    write_result(text + fmt::format("kept in {}\n", file.string()));
  });
  return 0;
}

}  // namespace

int run_plan(const PlanOptions& options) {
  if (options.calibrates) return calibrate(options);
  Plan plan{.config = config_of(options), .models = {}, .world = {}, .rank = {}};
  const Log log = make_log(0, options.verbosity);
  plan.world.num_ranks = num_students(plan.config, options.ranks);
  plan.models = planned_models(plan.config, log);
  resolve_length(plan);
  if (options.skew)
    plan.world.expert_shares = shares_of(*options.skew, plan.models.student.moe.num_experts,
                                         plan.models.teacher ? plan.models.teacher->moe.num_experts : 0);
  if (options.cluster) {
    plan.cluster = load_cluster(*options.cluster);
    if (options.ranks > plan.cluster->num_devices())
      core::fail_usage("plan: --ranks is {}, expected at most the {} devices of {}", options.ranks,
                       plan.cluster->num_devices(), options.cluster->string());
    plan.world.ranks_a_node = static_cast<int>(plan.cluster->devices_a_node);
  } else if (is_automatic(plan.config)) {
    plan.cluster = machine_cluster(plan.config, options.ranks, options.ranks,
                                   memory_of_rank_here(plan.config, options.ranks), log);
  } else {
    plan.cluster = measured_machine(plan.config, options.ranks, options.ranks, log);
  }
  if (plan.cluster) plan.world.device = plan.cluster->imagined();
  if (plan.cluster) plan.layouts = best_layouts(plan.config, plan.models, plan.world, *plan.cluster, most_layouts);
  // Without any that fits the second call says what the least would take.
  if (is_automatic(plan.config))
    plan.config =
        under(plan.config, plan.layouts.empty() ? automatic_layout(plan.config, plan.models, plan.world, *plan.cluster)
                                                : plan.layouts.front());
  plan.rank = plan_rank(plan.config, plan.models, plan.world);
  if (plan.cluster) {
    plan.time = step_time(plan.config, plan.models, plan.rank, plan.world, *plan.cluster);
    plan.run = run_figures(plan.config, *plan.time, plan.world, *plan.cluster);
  }
  write_result(options.json ? data::indented(plan_json(plan)) : plan_text(plan));
  return 0;
}

}  // namespace limbeck::launch
