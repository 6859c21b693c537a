#include "launch/report/run_results.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "launch/console/numbers.h"
#include "launch/report/distill_report.h"
#include "launch/run/evaluation_json.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

using data::JsonAt;

constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 24U;

constexpr std::array<const char*, 8> of_teacher = {"teacher_ce",     "kl",      "kl_median",  "kl_p90", "kl_p99",
                                                   "top1_agreement", "sum_min", "teacher_ece"};

/// What follows from other figures; and a model without a teacher has none of the figures against one, though older
/// records say 0.
void complete(Figures& figures) {
  if (const auto teacher = figures.find("teacher_ce"); teacher != figures.end() && teacher->second <= 0)
    for (const char* name : of_teacher) figures.erase(name);
  const auto ce = figures.find("ce");
  if (ce != figures.end() && std::isfinite(std::exp(ce->second)))
    figures.try_emplace("perplexity", std::exp(ce->second));
}

Figures figures_from_json(const JsonAt& in) {
  Figures figures;
  for (const auto& [name, value] : in.object().json().items()) {
    if (value.is_structured() || value.is_null()) continue;
    if (!value.is_number()) in.at(name).refuse("a number");
    if (const auto number = value.get<double>(); std::isfinite(number)) figures[name] = number;
  }
  complete(figures);
  return figures;
}

/// Of the record's member `name`; with its "sets" where `has_sets`. Nothing where it has neither, or only none of no
/// tokens.
std::optional<Measured> measured(const JsonAt& record, const char* name, bool has_sets) {
  Measured result;
  if (const JsonAt in = record.get(name); !in.is_null()) result.figures = figures_from_json(in);
  if (result.figure("tokens").value_or(0) <= 0) result.figures.clear();
  if (const JsonAt sets = record.get("sets"); has_sets && !sets.is_null())
    for (const auto& [set, _] : sets.object().json().items()) result.sets[set] = figures_from_json(sets.at(set));
  if (result.figures.empty() && result.sets.empty()) return std::nullopt;
  return result;
}

std::optional<BestStep> best_of(const JsonAt& end) {
  const JsonAt best = end.get("best");
  if (best.is_null()) return std::nullopt;
  const JsonAt value = best.at("value");
  if (!value.json().is_number()) value.refuse("a number");
  return BestStep{best.at("figure").text(), value.json().get<double>(), best.at("step").whole()};
}

std::string text_of(const JsonAt& record, const char* name) {
  return record.get(name).is_null() ? "" : record.at(name).text();
}

/// The last evaluation of the metrics.
std::optional<Measured> last_evaluation(const RunRecord& record) {
  Measured result;
  for (const auto& [name, series] : record.series)
    if (name.starts_with("eval_") && !series.values.empty()) result.figures[name.substr(5)] = series.values.back();
  for (const auto& [set, figures] : record.sets) {
    for (const auto& [name, series] : figures)
      if (!series.values.empty()) result.sets[set][name] = series.values.back();
    complete(result.sets[set]);
  }
  if (result.figures.empty() && result.sets.empty()) return std::nullopt;
  complete(result.figures);
  return result;
}

std::int64_t last_evaluation_step(const RunRecord& record) {
  double step = 0;
  for (const auto& [name, series] : record.series)
    if (name.starts_with("eval_") && !series.steps.empty()) step = std::max(step, series.steps.back());
  for (const auto& [set, figures] : record.sets)
    for (const auto& [name, series] : figures)
      if (!series.steps.empty()) step = std::max(step, series.steps.back());
  return std::llround(step);
}

void read_start(RunResults& run) {
  const std::string where = (run.path / "start.json").string() + ": not the start of a run";
  const nlohmann::json json = with_present_names(read_start_file(run.path));
  const JsonAt start(json, where);
  run.facts = run_facts_from_json(json, where);
  run.before = measured(start, "student", true);
  run.unigram = measured(start, "unigram", false);
  run.teacher_text = text_of(start, "teacher_text");
  run.text_before = text_of(start, "student_text");
}

/// Of a run with an end; where the config now has more steps than the run that ended by them, it is not finished.
RunState state_of(const RunResults& run, const JsonAt& end, std::int64_t step, bool is_in_use) {
  if (step >= run.config.train.steps) return RunState::Finished;
  if (is_in_use) return RunState::Running;
  const JsonAt member = end.get("ended_by");  // older runs do not say it
  if (member.is_null()) return RunState::Stopped;
  const auto why = ended_by_from(member.text());
  if (!why) member.refuse("the reason of an end");
  if (*why == EndedBy::AllSteps) return RunState::Stopped;
  return *why == EndedBy::NoGain ? RunState::StoppedEarly : RunState::Paused;
}

/// end.json, where there is one of the last step; else what the metrics say.
void read_end(RunResults& run, bool is_in_use) {
  run.state = is_in_use ? RunState::Running : RunState::Stopped;
  const fs::path file = run.path / "end.json";
  if (fs::exists(file)) {
    const std::string where = file.string() + ": not the end of a run";
    const nlohmann::json json =
        with_present_names(data::parse_json<nlohmann::ordered_json>(data::read_text_file(file, most_bytes), where));
    const JsonAt end(json, where);
    const std::int64_t step = end.object().at("step").whole();
    const auto after = measured(end, "student", true);
    const std::string text = text_of(end, "student_text");
    if (step >= run.record.last_step && step > 0) {
      run.state = state_of(run, end, step, is_in_use);
      run.after = after;
      run.best = best_of(end);
      run.after_step = step;
      run.text_after = text;
      return;
    }
  }
  run.after = last_evaluation(run.record);
  run.after_step = last_evaluation_step(run.record);
}

const Series* series_of(const RunRecord& record, const char* field) {
  const auto found = record.series.find(field);
  return found == record.series.end() || found->second.values.empty() ? nullptr : &found->second;
}

}  // namespace

std::optional<double> figure_of(const Figures& figures, const std::string& name) {
  const auto found = figures.find(name);
  return found == figures.end() ? std::nullopt : std::make_optional(found->second);
}

const char* name_of(RunState state) {
  constexpr std::array names = {"finished", "stopped early", "paused", "stopped", "running"};
  return names.at(static_cast<std::size_t>(state));
}

std::string state_text(const RunResults& run) {
  const std::string step = grouped(run.record.last_step);
  if (run.state == RunState::Finished) return name_of(run.state);
  if (run.state == RunState::StoppedEarly) return fmt::format("{} at step {} (patience)", name_of(run.state), step);
  return fmt::format("{} of {} steps, {}", step, grouped(run.config.train.steps), name_of(run.state)) +
         (run.state == RunState::Paused ? " by --steps" : "");
}

std::vector<std::string> RunResults::set_names() const {
  std::set<std::string> measured;
  for (const auto* each : {&before, &after})
    if (*each)
      for (const auto& [set, _] : (*each)->sets) measured.insert(set);
  std::vector<std::string> names;
  const auto take = [&](const std::string& set) {
    if (measured.erase(set) > 0) names.push_back(set);
  };
  for (std::size_t i = 0; i < config.data.sources.size(); ++i) take("held_out/" + name_of_source(config.data, i));
  for (const auto& set : config.evaluation.set) take(set.name);
  names.insert(names.end(), measured.begin(), measured.end());  // of a config that was another
  return names;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::optional<double> RunResults::tokens_per_s() const {
  const Series* speed = series_of(record, "tokens_per_s");
  return speed == nullptr ? std::nullopt : std::make_optional(median(speed->values));
}

std::optional<double> RunResults::training_seconds() const {
  const Series* seconds = series_of(record, "seconds");
  return seconds == nullptr ? std::nullopt : std::make_optional(seconds->values.back());
}

std::optional<double> RunResults::wall_seconds() const {
  if (record.times.empty()) return std::nullopt;
  double seconds = 0;
  double last = record.times.front().begin;
  auto start = facts.starts.begin();
  for (const Stretch& stretch : record.times) {
    for (; start != facts.starts.end() && start->time <= stretch.begin; ++start) last = start->time;
    seconds += std::max(0.0, stretch.begin - last) + stretch.seconds;
    last = stretch.end;
    // Behind a pause that is not known any more, for it was shorter than all that are.
    while (start != facts.starts.end() && start->time <= last) ++start;
  }
  return seconds;
}

std::optional<double> RunResults::peak_bytes() const {
  const Series* bytes = series_of(record, "rss_bytes");
  return bytes == nullptr ? std::nullopt : std::make_optional(bytes->greatest());
}

std::string name_of_run(const fs::path& directory) { return fs::canonical(directory).filename().string(); }

RunResults read_run(const RunDirectory& directory) {
  RecordReader record(directory.metrics());
  return read_run(directory, record);
}

RunResults read_run(const RunDirectory& directory, RecordReader& record) {
  if (!fs::is_regular_file(directory.config()) ||
      (!fs::is_regular_file(directory.metrics()) && !RunDirectory::is_run(directory.path())))
    core::fail_usage("{}: is no run directory, expected {} and {} there", directory.path().string(),
                     directory.config().filename().string(), directory.metrics().filename().string());
  RunResults run;
  run.path = directory.path();
  run.name = name_of_run(directory.path());
  run.config_text = data::read_text_file(directory.config(), most_bytes);
  run.config = parse_config(run.config_text, directory.config().string());
  run.record = record.read();
  read_start(run);
  read_end(run, directory.is_in_use());
  return run;
}

const char* kind_of(const RunResults& run) {
  if (run.config.objective.preference) return "preferences";
  if (run.config.objective.reward) return "rewards";
  return run.config.teacher ? "distillation" : "training";
}

}  // namespace limbeck::launch
