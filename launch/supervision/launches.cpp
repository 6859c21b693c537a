#include "launch/supervision/launches.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <fstream>

#include "core/counted.h"
#include "launch/console/columns.h"
#include "launch/run/metrics.h"
#include "launch/run/run_facts.h"

namespace limbeck::launch {

namespace {

const char* name_of(Ended ended) {
  constexpr std::array names = {"done", "stopped", "failed"};
  return names[static_cast<std::size_t>(ended)];
}

template <class Number>
std::string cell(const std::optional<Number>& value) {
  return value ? fmt::format("{:.0f}", static_cast<double>(*value)) : "-";
}

}  // namespace

RunProgress read_progress(const RunDirectory& run) {
  RunProgress progress;
  try {
    for (const RunStarted& start : run_facts_from_json(read_start_file(run.path()), run.path().string()).starts)
      progress.starts.push_back({start.step, start.time});
    if (std::filesystem::exists(run.metrics()))
      read_metrics(run.metrics(), [&](const MetricsLine& line) {
        const auto time = line.values.find("time");
        if (time != line.values.end() && time->is_number()) progress.steps.push_back({line.step, time->get<double>()});
      });
  } catch (const std::exception&) {
    // A kill at any instant leaves whole files; what others did to them, the next attempt says.
  }
  return progress;
}

void note_progress(Attempt& attempt, const RunProgress& before, const RunProgress& after) {
  if (after.starts.empty()) return;
  if (!before.starts.empty() && before.starts.back().time == after.starts.back().time) return;
  const RunProgress::Start& start = after.starts.back();
  attempt.from = attempt.to = start.step;
  for (const RunProgress::Step& step : after.steps)
    if (step.time >= start.time) attempt.to = std::max(*attempt.to, step.step);  // others are not cut away yet
  if (attempt.number == 1 || before.starts.empty()) return;
  const std::int64_t reached = before.steps.empty() ? 0 : before.steps.back().step;
  attempt.steps_lost = std::max<std::int64_t>(0, reached - start.step);
  const auto first_done = std::ranges::find(before.steps, start.step, &RunProgress::Step::step);
  if (first_done != before.steps.end())
    attempt.seconds_lost = start.time - first_done->time;
  else if (start.step == 0)  // all that there was
    attempt.seconds_lost = start.time - before.starts.front().time;
}

nlohmann::ordered_json to_json(const Attempt& attempt) {
  nlohmann::ordered_json json = {{"attempt", attempt.number}, {"time", attempt.time}, {"ranks", attempt.ranks}};
  const auto put = [&](const char* name, const auto& value) {
    if (value) json[name] = *value;
  };
  if (!attempt.without.empty()) json["without"] = attempt.without;
  put("from", attempt.from);
  put("to", attempt.to);
  json.update({{"seconds", attempt.seconds}, {"ended", name_of(attempt.ended)}, {"code", attempt.code}});
  if (attempt.cause) {
    const Cause& cause = *attempt.cause;
    json["cause"] = cause.what;
    put("rank", cause.rank);
    if (!cause.host.empty()) json["host"] = cause.host;
    if (cause.step > 0) json["at_step"] = cause.step;
    if (!cause.operation.empty()) json["operation"] = cause.operation;
  }
  put("steps_lost", attempt.steps_lost);
  put("seconds_lost", attempt.seconds_lost);
  return json;
}

std::string add_line(const std::filesystem::path& file, const nlohmann::ordered_json& line) {
  std::ofstream out(file, std::ios::app);
  out << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n' << std::flush;
  return out.good() ? "" : fmt::format("{}: cannot be written: what this launch does is not kept", file.string());
}

std::string to_text(std::span<const Attempt> attempts) {
  std::vector<std::vector<std::string>> rows = {
      {"attempt", "ranks", "from step", "to", "seconds", "steps lost", "seconds lost", "ended"}};
  std::int64_t steps = 0;
  double seconds = 0;
  for (const Attempt& a : attempts) {
    rows.push_back({fmt::format("{}", a.number), fmt::format("{}", a.ranks), cell(a.from), cell(a.to),
                    fmt::format("{:.0f}", a.seconds), cell(a.steps_lost), cell(a.seconds_lost),
                    a.cause ? to_text(*a.cause) : name_of(a.ended)});
    steps += a.steps_lost.value_or(0);
    seconds += a.seconds_lost.value_or(0);
  }
  return fmt::format("\nLaunched {}; lost: {}, {:.0f} s\n\n{}",
                     core::counted(static_cast<std::int64_t>(attempts.size()), "time"), core::counted(steps, "step"),
                     seconds, aligned(rows, 2));
}

}  // namespace limbeck::launch
