#include "launch/plan/plan_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/counted.h"
#include "data/models/families/family.h"
#include "launch/console/columns.h"
#include "launch/console/numbers.h"
#include "launch/console/progress.h"

namespace limbeck::launch {
namespace {

using Rows = std::vector<std::vector<std::string>>;
using nlohmann::ordered_json;

std::string layout_of(const Plan& plan) { return layout_of_student(plan.config, plan.world.num_ranks); }

std::string models_text(const Plan& plan) {
  const nn::ParameterCount student = nn::count_parameters(plan.models.student);
  std::string text = fmt::format(
      "the model: {} parameters, {} a token, {} trained\n", short_count(static_cast<double>(student.total)),
      short_count(static_cast<double>(student.active)), short_count(static_cast<double>(plan.rank.trainable)));
  if (!plan.models.teacher) return text;
  const nn::ParameterCount teacher = nn::count_parameters(*plan.models.teacher);
  return text + fmt::format("the teacher: {} parameters, {} a token\n", short_count(static_cast<double>(teacher.total)),
                            short_count(static_cast<double>(teacher.active)));
}

/// Of each format why it cannot hold the student; empty: it can.
std::vector<std::pair<std::string, std::optional<std::string>>> formats_of(const nn::ModelConfig& student) {
  return {{"Hugging Face directory", data::beyond_all_families(student)},
          {"GGUF file", data::beyond_all_families(student, data::beyond_gguf)}};
}

std::string formats_text(const Plan& plan) {
  std::string text = "\n";
  for (const auto& [format, why] : formats_of(plan.models.student))
    text += why ? fmt::format("a {} cannot hold the model: {}\n", format, *why)
                : fmt::format("a {} can hold the model\n", format);
  return text;
}

bool has_teacher_alone(const Plan& plan) {
  return plan.rank.teacher_apart && plan.config.parallel.teacher_ranks > 0;
}

std::string memory_table(const Plan& plan, const std::string& head, const MemoryParts& memory) {
  Rows rows;
  for (const MemoryPart& part : parts_of(memory))
    if (part.bytes > 0) rows.push_back({part.text, bytes_text(part.bytes)});
  std::string text = fmt::format("\n{}:\n", head) + aligned(rows, 2);
  if (plan.cluster && !plan.cluster->holds(memory.held))
    text += fmt::format("it does not fit into the {:.1f} GiB of a device\n", plan.cluster->memory_gib);
  return text;
}

std::string memory_text(const Plan& plan) {
  const std::optional<TeacherPlan>& teacher = plan.rank.teacher_apart;
  const bool is_alone = has_teacher_alone(plan);
  std::string text = memory_table(
      plan,
      fmt::format("{} on {}{}, memory of a rank{}", layout_of(plan), core::counted(plan.world.num_ranks, "rank"),
                  teacher && !is_alone ? fmt::format(", the teacher's {}", teacher->layout) : "",
                  plan.rank.is_of_stages() ? fmt::format(" of stage {}, which takes most", plan.rank.stage) : ""),
      plan.rank.memory);
  if (!is_alone) return text;
  return text + memory_table(plan,
                             fmt::format("{} on {} of the teacher, memory of a rank", teacher->layout,
                                         core::counted(teacher->num_ranks, "rank")),
                             teacher->memory);
}

/// `times`: empty where nothing is known of them.
std::string traffic_table(const std::string& head, const std::vector<parallel::ExchangeCount>& traffic,
                          const std::vector<ExchangeTime>& times) {
  if (traffic.empty()) return "";
  Rows rows = {{"ranks", "operation", "of", "calls", "bytes"}};
  if (!times.empty()) rows.front().insert(rows.front().end(), {"time", "by", ""});
  for (std::size_t i = 0; i < traffic.size(); ++i) {
    const parallel::ExchangeCount& t = traffic[i];
    rows.push_back({t.group, t.operation, fmt::format("{}", t.ranks.size()), grouped(t.calls), bytes_text(t.bytes)});
    if (times.empty()) continue;
    const ExchangeTime& exchange = times[i];
    rows.back().insert(rows.back().end(),
                       {time_text(exchange.seconds), exchange.between_nodes ? "between nodes" : "within a node",
                        exchange.is_hidden ? "beside the passes" : ""});
  }
  return fmt::format("\n{} in a step:\n", head) + aligned(rows, 2);
}

std::string traffic_text(const Plan& plan) {
  const StepTime time = plan.time.value_or(StepTime());
  std::string text = traffic_table("what it sends", plan.rank.traffic, time.by_traffic);
  if (const std::optional<TeacherPlan>& teacher = plan.rank.teacher_apart)
    text += traffic_table(
        has_teacher_alone(plan) ? "what a rank of the teacher's sends" : "what it sends for the teacher",
        teacher->traffic, time.of_teacher.by_traffic);
  return text;
}

std::string tokens_a_second(const Plan& plan, const StepTime& time) {
  return short_count(static_cast<double>(plan.config.batch.sequences_per_step * plan.config.data.sequence_length) /
                     time.seconds());
}

/// How often the run goes through its text.
std::optional<double> epochs_of(const Plan& plan) {
  if (!plan.sequences_an_epoch) return std::nullopt;
  return static_cast<double>(plan.config.train.steps * plan.config.batch.sequences_per_step) /
         static_cast<double>(*plan.sequences_an_epoch);
}

/// Of one in a layout of its own.
std::string teacher_time_text(const Plan& plan) {
  const StepTime& time = *plan.time;
  if (has_teacher_alone(plan))
    return fmt::format(", waits {} for the teacher, which takes {}", time_text(time.teacher),
                       time_text(time.of_teacher.seconds));
  return plan.rank.teacher_apart ? ", the teacher " + time_text(time.teacher) : "";
}

std::string step_text(const Plan& plan) {
  const StepTime& time = *plan.time;
  return fmt::format(
      "a step on {}: {} (products {}, other kernels {}, exchanges that nothing hides {}{}{}{}), {} tokens/s\n",
      plan.cluster->name, time_text(time.seconds()), time_text(time.products), time_text(time.memory),
      time_text(time.exposed), plan.rank.memory.host > 0 ? ", the bus to the host's memory " + time_text(time.bus) : "",
      plan.rank.is_of_stages() ? ", waits for other stages " + time_text(time.waits) : "", teacher_time_text(plan),
      tokens_a_second(plan, time));
}

/// Times and costs where there is a cluster.
std::string run_text(const Plan& plan) {
  std::string text = fmt::format("the run: {} of {} tokens", core::counted(plan.config.train.steps, "step"),
                                 short_count(tokens_of_run(plan.config)));
  if (const auto epochs = epochs_of(plan)) text += fmt::format(", {:.3g} epochs of the text", *epochs);
  if (!plan.run) return text + "\n";
  const RunFigures& run = *plan.run;
  text += ", " + duration_text(run.seconds);
  if (run.kwh > 0) text += fmt::format(", {:.2f} kWh, {:.3g} J a token", run.kwh, run.kwh * 3.6e6 / run.tokens);
  if (run.cost > 0)
    text += fmt::format(", {:.2f} {}, {:.3g} {} a million tokens", run.cost, plan.cluster->currency,
                        run.cost / run.tokens * 1e6, plan.cluster->currency);
  return text + "\n";
}

/// Why the layouts have what they have beside their axes.
std::string reasons_text(const std::vector<PlannedLayout>& layouts) {
  const auto any = [&](const auto& has) { return std::ranges::any_of(layouts, has); };
  std::string text;
  if (any([](const PlannedLayout& l) { return l.shard != Shard::Nothing || l.recompute; }))
    text += "shard, recompute: the least of them with which the layout fits\n";
  if (any([](const PlannedLayout& l) { return l.shard_ranks > 0; }))
    text += "within so many ranks: as the config says, or faster than among all\n";
  if (any([](const PlannedLayout& l) { return l.layout.find("etp") != std::string::npos; }))
    text += "etp: tried where experts would take more than a quarter of a device's memory with ep alone\n";
  return text;
}

std::string layouts_text(const Plan& plan) {
  const std::string ranks = core::counted(plan.world.num_ranks, "rank");
  if (plan.layouts.empty() && feeds_any_layout(plan.config, plan.models, plan.world, *plan.cluster))
    return fmt::format("\nno layout of {} fits into {:.1f} GiB a device{}\n", ranks, plan.cluster->memory_gib,
                       has_teacher_alone(plan) ? " with a rank of the teacher's beside it on another" : "");
  if (plan.layouts.empty())
    return fmt::format(
        "\nno layout of {} gives each a sequence in each pass (batch.sequences_per_step is {}, batch.micro_batches "
        "{}), "
        "and the config's own does not fit into {:.1f} GiB a device\n",
        ranks, plan.config.batch.sequences_per_step, plan.config.batch.micro_batches, plan.cluster->memory_gib);
  Rows rows = {{"layout", "stages", "sequence parallel", "shard", "recompute", "memory", "step", "tokens/s", "exposed",
                "waits"}};
  for (const PlannedLayout& l : plan.layouts) {
    const auto share = [&](double seconds) { return fmt::format("{:.0f} %", 100 * seconds / l.time.seconds()); };
    rows.push_back({l.layout, l.work ? l.work->text() : "-", l.sequence_parallel ? "yes" : "-",
                    l.shard == Shard::Nothing ? "-" : sharing_text(l), l.recompute ? "yes" : "-",
                    bytes_text(l.plan.memory.held), time_text(l.time.seconds()), tokens_a_second(plan, l.time),
                    share(l.time.exposed), l.work ? share(l.time.waits) : "-"});
  }
  return fmt::format("\nthe fastest that fit into {:.1f} GiB a device:\n", plan.cluster->memory_gib) +
         aligned(rows, 2) + reasons_text(plan.layouts);
}

ordered_json memory_json(const MemoryParts& memory) {
  ordered_json json;
  for (const MemoryPart& part : parts_of(memory)) json[part.name] = part.bytes;
  return json;
}

ordered_json traffic_json(const std::vector<parallel::ExchangeCount>& traffic, const std::vector<ExchangeTime>& times) {
  ordered_json all = ordered_json::array();
  for (std::size_t i = 0; i < traffic.size(); ++i) {
    const parallel::ExchangeCount& t = traffic[i];
    all.push_back(
        {{"group", t.group}, {"operation", t.operation}, {"ranks", t.ranks}, {"calls", t.calls}, {"bytes", t.bytes}});
    if (times.empty()) continue;
    all.back()["seconds"] = times[i].seconds;
    all.back()["between_nodes"] = times[i].between_nodes;
    all.back()["hidden"] = times[i].is_hidden;
  }
  return all;
}

ordered_json time_json(const StepTime& time) {
  return {{"seconds", time.seconds()},   {"products", time.products}, {"memory", time.memory},
          {"exposed", time.exposed},     {"bus", time.bus},           {"waits", time.waits},
          {"exchanges", time.exchanges}, {"flops", time.flops},       {"bytes", time.bytes},
          {"teacher", time.teacher}};
}

/// Of one in a layout of its own.
ordered_json teacher_json(const Plan& plan) {
  const TeacherPlan& teacher = *plan.rank.teacher_apart;
  const StepTime time = plan.time.value_or(StepTime());
  ordered_json json = {{"layout", teacher.layout}, {"ranks", teacher.num_ranks}, {"passes", teacher.passes}};
  if (has_teacher_alone(plan)) json["memory"] = memory_json(teacher.memory);
  json["traffic"] = traffic_json(teacher.traffic, time.of_teacher.by_traffic);
  if (!plan.cluster) return json;
  if (has_teacher_alone(plan)) json["fits"] = plan.cluster->holds(teacher.memory.held);
  json["step"] = {{"seconds", time.of_teacher.seconds}, {"exposed", time.of_teacher.exposed}};
  return json;
}

ordered_json parameters_json(const nn::ModelConfig& model) {
  const nn::ParameterCount count = nn::count_parameters(model);
  return {{"total", count.total}, {"active", count.active}};
}

}  // namespace

std::string bytes_text(double bytes) {
  constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; unit + 1 < units.size() && bytes >= 1024; ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, units[unit]);
}

std::string bytes_text(std::int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

std::string time_text(double seconds) {
  if (seconds < 1) return fmt::format("{:.2f} ms", 1e3 * seconds);
  return seconds < 120 ? fmt::format("{:.2f} s", seconds) : duration_text(seconds);
}

std::string plan_text(const Plan& plan) {
  std::string text = models_text(plan) + memory_text(plan) + traffic_text(plan) + "\n";
  if (plan.cluster) text += step_text(plan);
  text += run_text(plan);
  if (plan.cluster) text += layouts_text(plan);
  return text + formats_text(plan);
}

ordered_json plan_json(const Plan& plan) {
  ordered_json json = {{"ranks", num_planned_ranks(plan.config, plan.world)}, {"layout", layout_of(plan)}};
  json["parameters"] = parameters_json(plan.models.student);
  json["parameters"]["trainable"] = plan.rank.trainable;
  if (plan.models.teacher) json["teacher_parameters"] = parameters_json(*plan.models.teacher);
  if (plan.rank.is_of_stages()) json["stage"] = plan.rank.stage;
  json["memory"] = memory_json(plan.rank.memory);
  json["traffic"] = traffic_json(plan.rank.traffic, plan.time.value_or(StepTime()).by_traffic);
  if (plan.rank.teacher_apart) json["teacher"] = teacher_json(plan);
  for (const auto& [format, why] : formats_of(plan.models.student))
    json["formats"][format] = why ? ordered_json(*why) : ordered_json();
  json["run"] = {{"steps", plan.config.train.steps}, {"tokens", tokens_of_run(plan.config)}};
  if (const auto epochs = epochs_of(plan)) json["run"]["epochs"] = *epochs;
  if (!plan.cluster) return json;
  json["cluster"] = plan.cluster->name;
  json["fits"] = plan.cluster->holds(plan.rank.memory.held);
  json["step"] = time_json(*plan.time);
  json["run"]["seconds"] = plan.run->seconds;
  if (plan.run->kwh > 0) json["run"]["kwh"] = plan.run->kwh;
  if (plan.run->cost > 0) json["run"]["cost"] = {{"amount", plan.run->cost}, {"currency", plan.cluster->currency}};
  json["layouts"] = ordered_json::array();
  for (const PlannedLayout& l : plan.layouts)
    json["layouts"].push_back(
        {{"layout", l.layout}, {"set", l.sets()}, {"memory", memory_json(l.plan.memory)}, {"step", time_json(l.time)}});
  return json;
}

}  // namespace limbeck::launch
