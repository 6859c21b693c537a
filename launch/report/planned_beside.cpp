#include "launch/report/planned_beside.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "launch/console/numbers.h"
#include "launch/console/progress.h"
#include "launch/plan/measured_machine.h"
#include "launch/report/communication.h"
#include "launch/report/html.h"
#include "launch/run/heartbeat.h"

namespace limbeck::launch {

namespace {

using Value = std::optional<double>;

std::string text_of_bytes(double value) { return bytes_text(value); }
std::string text_of_time(double value) { return time_text(value); }
std::string three_digits(double value) { return fmt::format("{:.3g}", value); }

Value known(double value) { return value > 0 ? Value(value) : std::nullopt; }
Value divided(const Value& value, double by) { return value && by > 0 ? Value(*value / by) : std::nullopt; }

/// Bytes of a step, for ranks of its own node and of others.
struct Sent {
  double inside = 0, across = 0;
};

/// By axis. Of a group that spans nodes each of the others gets as much.
std::map<std::string, Sent> planned_traffic(const Plan& plan) {
  std::map<std::string, Sent> by_axis;
  const int a_node = plan.world.ranks_a_node > 0 ? plan.world.ranks_a_node : num_planned_ranks(plan.config, plan.world);
  std::vector<parallel::ExchangeCount> traffic = plan.rank.traffic;
  if (const auto& teacher = plan.rank.teacher_apart; teacher && plan.config.parallel.teacher_ranks == 0)
    traffic.insert(traffic.end(), teacher->traffic.begin(), teacher->traffic.end());
  for (const parallel::ExchangeCount& t : traffic) {
    // The planned rank is the last of its group's.
    const auto near = static_cast<double>(
        std::ranges::count_if(t.ranks, [&](int r) { return r / a_node == t.ranks.back() / a_node; }) - 1);
    const double share = near / std::max(1.0, static_cast<double>(std::ssize(t.ranks) - 1));
    const auto axis = static_cast<std::size_t>(parallel::axis_of(t.group));
    Sent& sent = by_axis[std::string(parallel::comm_axis_names.at(axis))];
    sent.inside += share * static_cast<double>(t.bytes);
    sent.across += (1 - share) * static_cast<double>(t.bytes);
  }
  return by_axis;
}

void add_memory(std::vector<PlannedFigure>& figures, const RunResults& run, const std::optional<Plan>& plan) {
  for (const MemoryPart& part : parts_of(plan ? plan->rank.memory : MemoryParts())) {
    const auto measured = run.record.memory.find(part.name);
    PlannedFigure figure{
        .name = fmt::format("memory: {}", part.text), .planned = {}, .measured = {}, .text = text_of_bytes};
    if (plan) figure.planned = static_cast<double>(part.bytes);
    if (measured != run.record.memory.end() && !measured->second.values.empty())
      figure.measured = measured->second.greatest();
    if (figure.planned.value_or(0) > 0 || figure.measured.value_or(0) > 0) figures.push_back(std::move(figure));
  }
}

void add_traffic(std::vector<PlannedFigure>& figures, const std::vector<AxisCommunication>& axes,
                 const std::optional<Plan>& plan) {
  std::map<std::string, std::pair<std::optional<Sent>, std::optional<Sent>>> by_axis;  // planned, measured
  if (plan)
    for (const auto& [axis, sent] : planned_traffic(*plan)) by_axis[axis].first = sent;
  for (const AxisCommunication& axis : axes) by_axis[axis.axis].second = Sent{axis.inside, axis.across};
  for (const auto& [axis, both] : by_axis)
    for (const auto& [where, bytes] : {std::pair("inside", &Sent::inside), {"across", &Sent::across}}) {
      const auto value = [bytes = bytes](const std::optional<Sent>& sent) {
        return sent ? Value((*sent).*bytes) : Value();
      };
      const Value planned = value(both.first), measured = value(both.second);
      if (planned.value_or(0) > 0 || measured.value_or(0) > 0)
        figures.push_back(
            {fmt::format("sent a step along {}, {} nodes", axis, where), planned, measured, text_of_bytes});
    }
}

/// By counters where every step has theirs.
WorkFigures work_of(const RunResults& run) {
  WorkFigures work{.tokens = std::llround(run.record.last("tokens")), .seconds = run.training_seconds().value_or(0)};
  if (run.facts.starts.empty()) return work;
  work.ranks = run.facts.starts.back().ranks;
  const auto of = [&](const char* field) {
    const auto found = run.record.series.find(field);
    return found == run.record.series.end() ? std::vector<double>() : found->second.values;
  };
  const std::vector<double> joules = of("joules");
  if (joules.empty() || joules.size() != of("loss").size()) return work;
  work.joules = 0;
  for (const double value : joules) *work.joules += value;
  work.by = run.facts.starts.back().energy;
  return work;
}

std::string cell(const Value& value, std::string (*text)(double)) { return value ? text(*value) : "-"; }

std::string table(const std::string& head, const std::string& rows) {
  return fmt::format("<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
                     head, rows);
}

std::string models_table(const RunResults& run, const std::optional<Cluster>& cluster) {
  const std::vector<ModelCost> models = costs_of_models(run, cluster);
  if (models.empty()) return "";
  const std::string currency = cluster ? cluster->currency : "";
  std::string rows;
  for (const ModelCost& m : models)
    rows += fmt::format("<tr><th>{}</th><td>{}</td><td>{:.1f}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                        m.name, short_count(static_cast<double>(m.active)), m.tokens_per_s,
                        cell(m.cost.joules, three_digits),
                        cell(m.cost.amount ? Value(1e6 * *m.cost.amount) : Value(), three_digits),
                        m.kl ? fixed(*m.kl, 4) : "-", m.agreement ? fixed(*m.agreement, 4) : "-");
  std::string by;
  for (const ModelCost& m : models)
    if (by.empty() && m.cost.joules) by = fmt::format(" Energy: {}.", m.cost.by);
  return fmt::format(
             "<h2>What a token costs</h2>\n<p class=\"note\">The prompt, one text, as the run said it at its "
             "{}.{}</p>\n",
             models.size() > 1 ? "beginning (teacher) and end" : "end", escape(by)) +
         table(fmt::format("<th></th><th>active parameters</th><th>tokens/s</th><th>J a token</th><th>{} a million "
                           "tokens</th><th>KL to the teacher</th><th>top-1 agreement</th>",
                           escape(currency.empty() ? "cost" : currency)),
               rows);
}

}  // namespace

Plan plan_of(const RunResults& run, const std::optional<Cluster>& cluster, const Log& log) {
  core::check(!run.facts.starts.empty(), "{}: says nothing of how it was started", run.path.string());
  const RunStarted& start = run.facts.starts.back();
  Plan plan{.config = run.config, .models = planned_models(run.config, log, "report"), .world = {}, .rank = {}};
  plan.config.parallel.layout = start.layout;
  const auto ranks = static_cast<int>(std::clamp<std::int64_t>(start.ranks, 1, 16384));
  plan.world.num_ranks = num_students(plan.config, ranks);
  plan.cluster = cluster;
  if (!cluster && start.host == host_name()) plan.cluster = measured_machine(plan.config, ranks, ranks, log);
  if (plan.cluster) {
    if (ranks > plan.cluster->num_devices())
      core::fail_usage("the run has {} ranks, expected at most the {} devices of {}", ranks,
                       plan.cluster->num_devices(), plan.cluster->name);
    plan.world.ranks_a_node = static_cast<int>(plan.cluster->devices_a_node);
    plan.world.device = plan.cluster->imagined();
  }
  plan.rank = plan_rank(plan.config, plan.models, plan.world);
  if (!plan.cluster) return plan;
  plan.time = step_time(plan.config, plan.models, plan.rank, plan.world, *plan.cluster);
  RunConfig done = plan.config;  // of the steps that were made
  done.train.steps = run.record.last_step;
  plan.run = run_figures(done, *plan.time, plan.world, *plan.cluster);
  return plan;
}

std::vector<PlannedFigure> planned_figures(const RunResults& run, const std::optional<Plan>& plan,
                                           const std::optional<Cluster>& cluster) {
  std::vector<PlannedFigure> figures;
  add_memory(figures, run, plan);
  const std::vector<AxisCommunication> axes = communication_of(run.record);
  add_traffic(figures, axes, plan);
  const StepTime* time = plan && plan->time ? &*plan->time : nullptr;
  const RunFigures* planned = plan && plan->run ? &*plan->run : nullptr;
  const auto add = [&](const std::string& name, const Value& of_plan, const Value& measured,
                       std::string (*text)(double)) {
    if (of_plan || measured) figures.push_back({name, of_plan, measured, text});
  };
  const double steps = static_cast<double>(run.record.last_step);
  const WorkFigures work = work_of(run);
  const auto tokens = static_cast<double>(work.tokens);
  Value exposed;
  for (const AxisCommunication& axis : axes) exposed = exposed.value_or(0) + axis.exposed_s;
  add("a step", time != nullptr ? Value(time->seconds()) : Value(), divided(known(work.seconds), steps), text_of_time);
  add("exchanges that nothing hides, a step", time != nullptr ? Value(time->exposed) : Value(), exposed, text_of_time);
  const Cost cost = cost_of_run(run, cluster);
  const std::string currency = cluster ? cluster->currency : "";
  const Value joules = planned != nullptr && planned->kwh > 0 ? Value(planned->kwh * joules_a_kwh) : Value(),
              price = planned != nullptr ? known(planned->cost) : Value();
  add("the run's steps", planned != nullptr ? Value(planned->seconds) : Value(), known(work.seconds), text_of_time);
  add("energy, kWh", divided(joules, joules_a_kwh), divided(cost.joules, joules_a_kwh), three_digits);
  add("J a token", planned != nullptr ? divided(joules, planned->tokens) : Value(), divided(cost.joules, tokens),
      three_digits);
  add("cost, " + currency, price, cost.amount, three_digits);
  add(currency + " a million tokens", planned != nullptr ? divided(price, planned->tokens / 1e6) : Value(),
      divided(cost.amount, tokens / 1e6), three_digits);
  return figures;
}

Cost cost_of_run(const RunResults& run, const std::optional<Cluster>& cluster) {
  return cost_of(work_of(run), cluster);
}

std::vector<ModelCost> costs_of_models(const RunResults& run, const std::optional<Cluster>& cluster) {
  std::vector<ModelCost> models;
  const auto add = [&](const char* name, const std::optional<ParameterFigures>& parameters,
                       const std::optional<WorkFigures>& decode) -> ModelCost* {
    if (!parameters || !decode || decode->seconds <= 0) return nullptr;
    const auto tokens = static_cast<double>(decode->tokens);
    Cost cost = cost_of(*decode, cluster);
    cost.joules = divided(cost.joules, tokens);
    cost.amount = divided(cost.amount, tokens);
    models.push_back({.name = name,
                      .active = parameters->active,
                      .tokens_per_s = tokens / decode->seconds,
                      .cost = cost,
                      .kl = {},
                      .agreement = {}});
    return &models.back();
  };
  add("teacher", run.facts.teacher, run.facts.teacher_decode);
  if (ModelCost* student = add(run.config.teacher ? "student" : "model", run.facts.model, run.facts.decode);
      student && run.after) {
    student->kl = run.after->figure("kl");
    student->agreement = run.after->figure("top1_agreement");
  }
  return models;
}

std::string planned_beside_measured(const RunResults& run, const std::optional<Cluster>& cluster, const Log& log) {
  std::optional<Plan> plan;
  std::string why;
  try {
    plan = plan_of(run, cluster, log);
  } catch (const core::Error& error) {
    why = fmt::format(" It is not planned: {}.", error.what());
  }
  std::string rows;
  for (const PlannedFigure& figure : planned_figures(run, plan,
                                                     cluster ? cluster
                                                     : plan  ? plan->cluster
                                                             : std::nullopt))
    rows += fmt::format("<tr><th>{}</th><td>{}</td><td>{}</td></tr>\n", escape(figure.name),
                        cell(figure.planned, figure.text), cell(figure.measured, figure.text));
  const Cost cost = cost_of_run(run, cluster);
  const std::string note = fmt::format("As docs/plan.md has it; memory and bytes of the rank with most of each.{}{}{}",
                                       plan && plan->cluster ? fmt::format(" Planned on {}.", plan->cluster->name) : "",
                                       cost.joules ? fmt::format(" Energy, measured: {}.", cost.by) : "", why);
  std::string html;
  if (!rows.empty())
    html = fmt::format("<h2>Planned beside measured</h2>\n<p class=\"note\">{}</p>\n", escape(note)) +
           table("<th></th><th>planned</th><th>measured</th>", rows);
  return html + models_table(run, cluster);
}

}  // namespace limbeck::launch
