// `limbeck plan`: what a run takes, before anything is launched.

#include "data/files/json_text.h"
#include "launch/commands/commands.h"
#include "launch/console/streams.h"
#include "launch/plan/automatic_layout.h"
#include "launch/plan/expert_shares.h"
#include "launch/plan/plan_text.h"
#include "launch/run/run_config.h"

namespace limbeck::launch {
namespace {

constexpr std::size_t most_layouts = 10;  // that are proposed

/// The config by which a run would go, with its steps.
RunConfig config_of(const PlanOptions& options) {
  RunConfig config = load_given_config(options.configs, options.sets);
  name_reference(config);
  config.teacher && !config.objective.preference ? check_for_distill(config) : check_for_train(config);
  if (config.train.epochs)
    core::fail_usage("plan: train.epochs is {}, expected train.steps or train.tokens: no text is read",
                     *config.train.epochs);
  resolve_steps(config, 0);
  return config;
}

}  // namespace

int run_plan(const PlanOptions& options) {
  Plan plan{.config = config_of(options), .models = {}, .world = {.num_ranks = options.ranks}, .rank = {}};
  plan.models = planned_models(plan.config, make_log(0, options.verbosity));
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
    plan.cluster =
        usual_cluster(plan.config, options.ranks, options.ranks, memory_of_rank_here(plan.config, options.ranks));
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
