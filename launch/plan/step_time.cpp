#include "launch/plan/step_time.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/slice.h"
#include "launch/run/run_settings.h"
#include "parallel/axes/mesh.h"

namespace limbeck::launch {
namespace {

// Each tensor of a step is written once, read by what follows, and read again by the backward pass.
constexpr double uses_of_a_tensor = 3;
// AdamW reads value, gradient and two moments, and writes all but the gradient; the norm has read that before.
constexpr double optimizer_uses = 8;

double head_flops(const nn::ModelConfig& model) {
  return 2.0 * static_cast<double>(model.reward_head ? 1 : model.vocabulary) * static_cast<double>(model.width);
}

/// Of a token's forward pass: what is divided over tp, and what its experts do.
struct ForwardFlops {
  double others = 0, experts = 0, head = 0;
};
ForwardFlops forward_flops(const nn::ModelConfig& model, double all) {
  ForwardFlops flops;
  flops.experts = static_cast<double>(model.moe.experts_per_token) * nn::forward_flops_per_expert(model);
  flops.others = all - flops.experts;
  flops.head = head_flops(model);
  return flops;
}

/// How much more the part of a model's experts with most to do has than the mean: the last, which has the most experts
/// and, of shares that ascend, the greatest.
double imbalance(const ExpertShares& all, const nn::ModelConfig& model, std::int64_t parts) {
  const std::int64_t num_experts = model.moe.num_experts;
  if (num_experts == 0) return 1;
  const core::Slice last = core::slice_of(num_experts, parts - 1, parts);
  const auto known = all.find(num_experts);
  const double share = known == all.end()
                           ? static_cast<double>(last.count) / static_cast<double>(num_experts)
                           : std::accumulate(known->second.begin() + last.first, known->second.end(), 0.0);
  return share * static_cast<double>(parts);
}

/// The rank's part of what the passes of all stages of a pipeline compute.
double share_of_stage(const RankPlan& plan) {
  if (!plan.is_of_stages()) return 1;
  const parallel::PipelineSchedule& schedule = plan.pipeline.schedule;
  const parallel::PipelineCosts& costs = plan.pipeline.costs;
  double own = 0, all = 0;
  for (int v = 0; v < schedule.num_virtual_stages(); ++v) {
    const auto at = static_cast<std::size_t>(v);
    const double cost = costs.forward[at] + costs.input_gradient[at] + costs.weight_gradient[at];
    all += cost;
    if (v % schedule.num_stages() == plan.stage) own += cost;
  }
  return own / all;
}

/// Seconds that a rank of a pipeline waits for other stages, where the passes of all of them together take `seconds`,
/// and what one sends another has `communication` seconds later: of the schedule's time what this stage does not
/// compute in.
double stage_waits(const RankPlan& plan, double seconds, double communication) {
  if (!plan.is_of_stages()) return 0;
  const parallel::PipelineSchedule& schedule = plan.pipeline.schedule;
  parallel::PipelineCosts costs = plan.pipeline.costs;
  const auto columns = {&costs.forward, &costs.input_gradient, &costs.weight_gradient};
  double all = 0;
  for (const auto* column : columns) all = std::accumulate(column->begin(), column->end(), all);
  for (auto* column : columns)
    for (double& cost : *column) cost *= seconds / all / schedule.num_micro_batches;
  costs.communication = communication;
  const parallel::PipelineTimes times = parallel::simulate(schedule, costs);
  return times.makespan * times.bubble[static_cast<std::size_t>(plan.stage)];
}

/// Of which ep and tp are 1 where they are not named.
parallel::Layout layout_of(const RunConfig& config) {
  parallel::Layout layout;
  if (!config.parallel.layout.empty()) layout = parallel::parse_layout(config.parallel.layout);
  layout.ep = std::max(layout.ep, 1);
  layout.tp = std::max(layout.tp, 1);
  return layout;
}

/// Those of the passes that are this rank's, of tensors that are cut over tp.
double tokens_of_rank(const RunConfig& config, const RankPlan& plan) {
  return static_cast<double>(plan.num_tokens) / layout_of(config).tp;
}

/// Of keys that one of `length` queries sees, on the mean.
double mean_keys(std::int64_t window, std::int64_t length) {
  const auto most = static_cast<double>(window > 0 ? std::min(window, length) : length);
  return most - most * (most - 1) / (2 * static_cast<double>(length));
}

/// Of a token's attention, forward, in those of so many layers that are here.
double attention_flops(const nn::ModelConfig& model, std::int64_t num_layers, std::int64_t length,
                       const std::function<bool(std::int64_t)>& is_here) {
  const std::int64_t with_attention = model.num_layers - model.num_mamba_layers();
  if (with_attention == 0) return 0;
  double keys = 0;
  for (std::int64_t layer = 0; layer < num_layers; ++layer)
    if (is_here(layer) && !model.is_mamba_layer(layer)) keys += mean_keys(model.layer(layer).window, length);
  constexpr std::int64_t of_one_key = 1, of_none = -1;  // lengths, of which (length + 1) / 2 keys count
  return keys * (nn::forward_flops_per_token(model, of_one_key) - nn::forward_flops_per_token(model, of_none)) /
         static_cast<double>(with_attention);
}

/// In the rank's passes: what the others' keys travel beside. The teacher's is the last stage's.
double attention_flops(const RunConfig& config, const PlannedModels& models, const RankPlan& plan) {
  const std::int64_t length = config.data.sequence_length, num_layers = models.student.num_layers;
  const bool is_last = !plan.is_of_stages() || plan.stage + 1 == plan.pipeline.schedule.num_stages();
  const auto is_here = [&](std::int64_t layer) {
    return !plan.is_of_stages() || (layer < num_layers ? plan.pipeline.stage_of(layer) == plan.stage : is_last);
  };
  double a_token = (config.train.recompute ? 4 : 3) *
                   attention_flops(models.student, num_layers + models.student.num_predict_layers, length, is_here);
  if (is_last && teacher_runs_beside(config, models))
    a_token += attention_flops(*models.teacher, models.teacher->num_layers, length, [](std::int64_t) { return true; });
  return tokens_of_rank(config, plan) * a_token;
}

/// Of the teacher's passes, of the rank that has most to do; of one in a layout of its own the head's.
double teacher_flops(const RunConfig& config, const PlannedModels& models, const RankPlan& plan,
                     const PlannedWorld& world) {
  if (!teacher_runs(config, models)) return 0;
  if (!teacher_runs_beside(config, models)) return tokens_of_rank(config, plan) * head_flops(*models.teacher);
  const ForwardFlops forward =
      forward_flops(*models.teacher, nn::forward_flops_per_token(*models.teacher, config.data.sequence_length));
  const double of_fullest =
      config.precision.sharded_teacher ? imbalance(world.expert_shares, *models.teacher, layout_of(config).ep) : 1;
  return tokens_of_rank(config, plan) * (forward.others + forward.experts * of_fullest);
}

/// Of the passes, of all stages where there are some, without the optimizer.
double flops_of(const RunConfig& config, const PlannedModels& models, const RankPlan& plan, const PlannedWorld& world) {
  const double tokens = tokens_of_rank(config, plan);
  const std::int64_t length = config.data.sequence_length;
  const ForwardFlops student = forward_flops(models.student, nn::training_flops_per_token(models.student, length) / 3);
  const std::int64_t parts = layout_of(config).ep;
  const nn::MoeConfig& moe = models.student.moe;
  const double more =
      config.routing.expert_choice  // each takes its part of the tokens
          ? experts_a_token(config.routing, moe) / static_cast<double>(moe.experts_per_token) *
                imbalance({}, models.student, parts)
          : imbalance(world.expert_shares, models.student, parts);
  const double forward = student.others + student.experts * more;
  const bool has_frozen_base = config.adapters.has_value();  // whose weights get no gradient
  double flops = tokens * (has_frozen_base ? 2 : 3) * forward;
  if (config.train.recompute) flops += tokens * (forward - student.head);
  return flops + teacher_flops(config, models, plan, world);
}

/// Likewise: of tensors, and of weights and gradients.
struct PassBytes {
  double tensors = 0, weights = 0;
};
PassBytes bytes_of(const RunConfig& config, const PlannedModels& models, const RankPlan& plan) {
  const auto passes = static_cast<double>(config.batch.micro_batches);
  const double weights = static_cast<double>(plan.parameter_bytes) * (config.train.recompute ? 3 : 2),
               gradients = static_cast<double>(plan.gradient_bytes) * 2,
               teacher = static_cast<double>(plan.teacher_bytes + plan.teacher_host);
  return {.tensors = uses_of_a_tensor * static_cast<double>(plan.given_bytes),
          .weights = passes * (weights + gradients + (teacher_runs_beside(config, models) ? teacher : 0))};
}

/// Seconds that the teacher's layers, which are alike, take over the bus, and of these what nothing hides: each is
/// copied while the one before it runs, the first of a pass while none does, nor any beside the head behind the last.
struct TeacherCopies {
  double seconds = 0, exposed = 0;
};
/// Of so many layers with `host` bytes in the host's memory, whose products take `products` seconds in all passes.
TeacherCopies copies_of(std::int64_t host, double layers, double passes, double products, const Cluster& cluster) {
  const ClusterLink bus = cluster.host_bus();
  const auto bytes = static_cast<double>(host);
  const double runs = products + passes * bytes / (cluster.memory_gb_s * 1e9);
  TeacherCopies copies;
  copies.seconds = passes * (layers * bus.latency_us * 1e-6 + bytes / (bus.gb_s * 1e9));
  copies.exposed = copies.seconds / layers + (layers - 1) / layers * std::max(copies.seconds - runs, 0.0);
  return copies;
}
TeacherCopies teacher_copies(const RunConfig& config, const PlannedModels& models, const RankPlan& plan,
                             const PlannedWorld& world, const Cluster& cluster) {
  if (plan.teacher_host == 0 || !teacher_runs_beside(config, models)) return {};
  const double flops =
      teacher_flops(config, models, plan, world) - tokens_of_rank(config, plan) * head_flops(*models.teacher);
  return copies_of(plan.teacher_host, static_cast<double>(models.teacher->num_layers),
                   static_cast<double>(config.batch.micro_batches), flops / cluster.flops(config.precision.compute),
                   cluster);
}

/// What one stage of a pipeline sends to another.
bool is_of_stages(const parallel::ExchangeCount& traffic) {
  return traffic.operation == "send" && traffic.group.starts_with("pp");
}

/// What is asked of a teacher on ranks of its own, and what it answers.
bool is_of_teacher(const parallel::ExchangeCount& traffic) {
  return traffic.operation == "send" && !is_of_stages(traffic);
}

/// Keys and values that go round the ranks of a sequence, and their gradients, which come back.
bool is_of_ring(const parallel::ExchangeCount& traffic) {
  return traffic.group == "cp" && traffic.operation == "all_to_all";
}

/// Whether an exchange runs beside the passes: reductions of gradients, layers' values that are dealt, keys that go
/// round (beside their attention); what stages send, which their schedule's time has. `by_cores`: it is made by the
/// cores that compute, which it keeps from the passes then.
bool runs_beside(const parallel::ExchangeCount& traffic, const RunConfig& config, bool by_cores) {
  if (traffic.operation == "send") return true;
  if (by_cores) return false;
  if (is_of_ring(traffic)) return true;
  return is_of_gradients(traffic) && (traffic.operation != "all_gather" || config.parallel.shard == Shard::Parameters);
}

/// Of all calls, over the link of their ranks. What is sent goes to one of them.
ExchangeTime on_link(const parallel::ExchangeCount& traffic, const Cluster& cluster) {
  const ClusterLink& link = cluster.link_of(traffic.ranks);
  const double rounds =
                   traffic.operation == "send" ? 1 : std::ceil(std::log2(static_cast<double>(traffic.ranks.size()))),
               bytes = static_cast<double>(traffic.bytes);
  return {.seconds = static_cast<double>(traffic.calls) * rounds * link.latency_us * 1e-6 +
                     (link.gb_s > 0 ? bytes / (link.gb_s * 1e9) : 0),
          .between_nodes = &link == &cluster.between};
}

/// What passes wait for of an exchange that runs beside them.
double waited_seconds(const parallel::ExchangeCount& traffic, const RankPlan& plan, const Cluster& cluster) {
  const auto same = std::ranges::find_if(plan.waited, [&](const parallel::ExchangeCount& t) {
    return t.group == traffic.group && t.operation == traffic.operation;
  });
  return same == plan.waited.end() ? 0 : on_link(*same, cluster).seconds;
}

/// Its stages run its passes one behind the other, each as long as the one with most layers takes; what is sent is
/// waited for, but for answers, which leave beside the next pass, and keys that go round beside attention. The next
/// answer waits until that before it has left: so no step is shorter than all of them take.
TeacherTime time_of(const TeacherPlan& plan, const RunConfig& config, const PlannedModels& models,
                    const PlannedWorld& world, const Cluster& cluster) {
  const nn::ModelConfig& teacher = *models.teacher;
  const std::int64_t length = config.data.sequence_length;
  const parallel::Layout layout = parallel::parse_layout(plan.layout);
  const ForwardFlops forward = forward_flops(teacher, nn::forward_flops_per_token(teacher, length));
  const double of_fullest =
      config.precision.sharded_teacher ? imbalance(world.expert_shares, teacher, std::max(layout.ep, 1)) : 1;
  const double tokens = plan.share * static_cast<double>(plan.num_tokens) / std::max(layout.tp, 1);
  const double rate = cluster.flops(config.precision.compute);
  const double products = tokens * (forward.others - forward.head + forward.experts * of_fullest) / rate;
  const double attention =
      tokens * attention_flops(teacher, teacher.num_layers, length, [](std::int64_t) { return true; }) / rate;
  const auto passes = static_cast<double>(plan.passes);
  const double memory =
      uses_of_a_tensor * static_cast<double>(plan.given_bytes) / cluster.kernel_rate() +
      passes * static_cast<double>(plan.bytes + plan.host) / (cluster.memory_gb_s * 1e9);
  TeacherTime time;
  double answers = 0;
  for (const parallel::ExchangeCount& t : plan.traffic) {
    ExchangeTime& exchange = time.by_traffic.emplace_back(on_link(t, cluster));
    const bool by_cores = !cluster.is_gpu && !exchange.between_nodes;
    exchange.is_hidden = is_of_teacher(t) || (is_of_ring(t) && !by_cores);
    const auto ranks = static_cast<double>(t.ranks.size());
    if (is_of_teacher(t)) answers += exchange.seconds;
    if (is_of_ring(t) && !by_cores)
      time.exposed += exchange.seconds - std::min(exchange.seconds, attention * (ranks - 1) / ranks);
    else if (!exchange.is_hidden)
      time.exposed += exchange.seconds;
  }
  time.seconds = (products + memory) * (passes + plan.num_stages - 1) / std::max(passes, 1.0) + time.exposed;
  if (plan.host > 0)
    time.seconds +=
        copies_of(plan.host, plan.share * static_cast<double>(teacher.num_layers), passes, products, cluster).exposed;
  const double waited = std::max(answers - time.seconds, 0.0);
  time.exposed += waited;
  time.seconds += waited;
  return time;
}

}  // namespace

bool is_of_gradients(const parallel::ExchangeCount& traffic) {
  return traffic.group.find(" gradients") != std::string::npos;
}

StepTime step_time(const RunConfig& config, const PlannedModels& models, const RankPlan& plan,
                   const PlannedWorld& world, const Cluster& cluster) {
  StepTime time;
  const core::DType master = config.precision.master;  // in which the optimizer works
  const double all_flops = flops_of(config, models, plan, world), share = share_of_stage(plan),
               all_products = all_flops / cluster.flops(config.precision.compute);
  const PassBytes pass_bytes = bytes_of(config, models, plan);
  const double step_bytes = static_cast<double>(core::bytes_of(master, plan.optimizer_values)) * optimizer_uses,
               bytes_a_second = cluster.memory_gb_s * 1e9,
               pass_memory = pass_bytes.tensors / cluster.kernel_rate() + pass_bytes.weights / bytes_a_second;
  time.flops = share * all_flops + plan.optimizer_flops;
  time.bytes = pass_bytes.tensors + pass_bytes.weights + step_bytes;
  time.products = share * all_products + plan.optimizer_flops / cluster.flops(master);
  time.memory = pass_memory + step_bytes / bytes_a_second;
  const TeacherCopies copies = teacher_copies(config, models, plan, world, cluster);
  // The optimizer's kernels read and write both memories at once, the host's each way at the same time.
  const double host_step = static_cast<double>(plan.optimizer_host) / (cluster.host_bus().gb_s * 1e9);
  time.bus = copies.exposed + std::max(host_step - step_bytes / bytes_a_second, 0.0);
  const double attention = attention_flops(config, models, plan) / cluster.flops(config.precision.compute);
  double hidden = 0, last = 0;  // `last`: what is left when the passes end
  double keys = 0;              // that attention hides
  double sent = 0;              // of one stage to another, a call
  for (const parallel::ExchangeCount& t : plan.traffic) {
    ExchangeTime exchange = on_link(t, cluster);
    exchange.is_hidden = runs_beside(t, config, !cluster.is_gpu && !exchange.between_nodes);
    const auto calls = static_cast<double>(t.calls);
    time.exchanges += exchange.seconds;
    if (is_of_teacher(t)) {
      // What is asked of it is of the next step.
    } else if (is_of_stages(t)) {
      sent = std::max(sent, exchange.seconds / std::max(calls, 1.0));
    } else if (exchange.is_hidden && is_of_ring(t)) {
      // A rank's keys travel while queries look at those of the rank before: beside the last ones nothing does.
      const auto ranks = static_cast<double>(t.ranks.size());
      keys = std::min(exchange.seconds, attention * (ranks - 1) / ranks);
      time.exposed += exchange.seconds - keys;
    } else if (exchange.is_hidden) {
      const double waited = waited_seconds(t, plan, cluster);
      time.exposed += waited;
      hidden += exchange.seconds - waited;
      last = std::max(last, exchange.seconds / std::max(calls, 1.0));
    } else {
      time.exposed += exchange.seconds;
    }
    time.by_traffic.push_back(exchange);
  }
  // A gradient is there when its layer's backward is done: two thirds of the passes' time is backward, but for that
  // which keys and a teacher's layers travel beside. The optimizer waits for the sums.
  const double passes = share * all_products + pass_memory,
               beside = std::max(passes - keys - (copies.seconds - copies.exposed), 0.0) * 2 / 3;
  if (hidden > 0) time.exposed += std::max(hidden - beside, last);
  time.waits = stage_waits(plan, share > 0 ? passes / share : all_products, sent);
  if (!plan.teacher_apart) return time;
  time.of_teacher = time_of(*plan.teacher_apart, config, models, world, cluster);
  const bool has_ranks = config.parallel.teacher_ranks > 0;
  time.teacher = has_ranks ? std::max(time.of_teacher.seconds - time.seconds(), 0.0) : time.of_teacher.seconds;
  time.of_teacher.is_beside = has_ranks;
  return time;
}

double tokens_of_run(const RunConfig& config) {
  return static_cast<double>(config.train.steps * config.batch.sequences_per_step * config.data.sequence_length);
}

RunFigures run_figures(const RunConfig& config, const StepTime& time, const PlannedWorld& world,
                       const Cluster& cluster) {
  const auto steps = static_cast<double>(config.train.steps);
  RunFigures run;
  run.tokens = tokens_of_run(config);
  run.seconds = steps * time.seconds();
  const int num_ranks = num_planned_ranks(config, world);
  run.kwh = cluster.joules_of(num_ranks, run.seconds) / joules_a_kwh;
  run.cost = cluster.price_of(num_ranks, run.seconds, run.kwh);
  return run;
}

}  // namespace limbeck::launch
