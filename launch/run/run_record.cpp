#include "launch/run/run_record.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"
#include "launch/run/expert_load.h"
#include "launch/run/metrics.h"

namespace limbeck::launch {

using core::check;
using nlohmann::json;

/// What the lines read so far say, and the one being read, which is named where it is wrong.
class RecordReader::Lines {
 public:
  Lines(const std::filesystem::path& metrics, std::size_t most_points)
      : file_(metrics.string()), most_points_(most_points), lines_(metrics) {}

  bool continues() const { return lines_.continues(); }
  void read() {
    record_.is_whole = lines_.read([this](const MetricsLine& line) { read(line); });
  }
  const RunRecord& record() const { return record_; }

 private:
  void read(const MetricsLine& line) {
    place_ = fmt::format("{}:{}", file_, line.number);
    constexpr std::int64_t most_steps = 1'000'000'000'000'000;
    check(line.step >= record_.last_step && line.step <= most_steps, "{}: step is {}, expected {} to {}", place_,
          line.step, record_.last_step, most_steps);
    if (line.number == 1) record_.first_step = line.step;
    record_.last_step = line.step;
    for (const auto& [name, value] : line.values.items()) {
      if (name == "step" || name == "seconds" || name == "refused" || value.is_null()) continue;
      if (name == "expert_load") {
        read_loads(value);
      } else if (name == "eval_sets") {
        read_sets(value);
      } else if (name == "exposed_s") {
        read_exposed(value);
      } else if (name == "sent_bytes") {
        read_sent(value);
      } else if (name == "memory_bytes") {
        check_object(name, value);
        for (const auto& [part, bytes] : value.items()) add(record_.memory[part], "memory_bytes." + part, bytes);
      } else if (name == "time") {
        if (const auto time = number(name, value)) add_time(record_.times, *time, most_points_);
      } else if (!value.is_structured()) {
        add(record_.series[name], name, value);
      }
    }
    const double before = seconds_.value(), seconds = seconds_.add(line.values);
    if (line.values.contains("exposed_s")) {
      ++record_.traffic_steps;
      record_.traffic_seconds += seconds - before;
    }
    if (seconds > 0) record_.series["seconds"].add(static_cast<double>(line.step), seconds, most_points_);
  }

  /// Nothing of null.
  std::optional<double> number(const std::string& name, const json& value) const {
    if (value.is_null()) return std::nullopt;
    check(value.is_number(), "{}: {} is {}, expected a number", place_, name, value.type_name());
    return value.get<double>();
  }

  void add(Series& series, const std::string& name, const json& value) const {
    if (const auto found = number(name, value))
      series.add(static_cast<double>(record_.last_step), *found, most_points_);
  }

  void check_object(const std::string& name, const json& value) const {
    check(value.is_object(), "{}: {} is {}, expected an object", place_, name, value.type_name());
  }

  void read_exposed(const json& axes) {
    check_object("exposed_s", axes);
    for (const auto& [axis, value] : axes.items()) {
      add(record_.traffic[axis].exposed_s, "exposed_s." + axis, value);
      record_.traffic[axis].waited_s += number("exposed_s." + axis, value).value_or(0);
    }
  }

  void read_sent(const json& axes) {
    check_object("sent_bytes", axes);
    for (const auto& [axis, bytes] : axes.items()) {
      check_object("sent_bytes." + axis, bytes);
      AxisTraffic& traffic = record_.traffic[axis];
      for (const auto& [where, sum] : {std::pair("inside", &traffic.inside), {"across", &traffic.across}})
        *sum += number(fmt::format("sent_bytes.{}.{}", axis, where), bytes.value(where, json())).value_or(0);
    }
  }

  void read_sets(const json& sets) {
    check_object("eval_sets", sets);
    for (const auto& [name, figures] : sets.items()) {
      check_object("eval_sets." + name, figures);
      for (const auto& [figure, value] : figures.items()) add(record_.sets[name][figure], "eval_sets", value);
    }
  }

  void read_loads(const json& list) {
    check(list.is_array(), "{}: expert_load is {}, expected a list", place_, list.type_name());
    for (const json& item : list) {
      check(item.is_object() && item.contains("layer") && item["layer"].is_number_integer(),
            "{}: an entry of expert_load has no whole number \"layer\"", place_);
      LayerLoad& load = record_.loads[item["layer"].get<std::int64_t>()];
      const auto value = [&](const char* name) { return item.contains(name) ? item[name] : json(); };
      add(load.min, "expert_load.min", value("min"));
      add(load.max, "expert_load.max", value("max"));
      add(load.entropy, "expert_load.entropy", value("entropy"));
      add(load.drops, "expert_load.drops", value("drops"));
      add(load.untaken, "expert_load.untaken", value("untaken"));
      if (item.contains("assignments")) read_assignments(load, item["assignments"]);
    }
  }

  void read_assignments(LayerLoad& load, const json& list) const {
    const auto is_count = [](const json& value) { return value.is_number_unsigned(); };
    check(list.is_array() && std::all_of(list.begin(), list.end(), is_count),
          "{}: expert_load.assignments are {}, expected a list of whole numbers from 0", place_, list.type_name());
    load.assignments = list.get<std::vector<std::int64_t>>();
    load.assignments_step = record_.last_step;
    const double total = std::accumulate(load.assignments.begin(), load.assignments.end(), 0.0);
    const auto num_experts = static_cast<double>(load.assignments.size());
    if (total <= 0) return;
    const auto starved = std::count_if(load.assignments.begin(), load.assignments.end(), [&](std::int64_t n) {
      return static_cast<double>(n) < starved_below * total / num_experts;
    });
    load.starved.add(static_cast<double>(record_.last_step), static_cast<double>(starved) / num_experts, most_points_);
  }

  std::string file_;
  std::string place_;
  std::size_t most_points_;
  MetricsReader lines_;
  RunRecord record_;
  TrainingSeconds seconds_;
};

namespace {

/// What each point of a series has.
template <class F>
void for_each_column(Series& series, const F& f) {
  for (auto* column : {&series.steps, &series.values, &series.low, &series.high}) f(*column);
}

/// The point at `from` joins that at `to`: of so many values each.
void join(Series& series, std::size_t to, std::size_t from, std::int64_t values_to, std::int64_t values_from) {
  const double share = static_cast<double>(values_from) / static_cast<double>(values_to + values_from);
  for (auto* mean : {&series.steps, &series.values}) (*mean)[to] = (1 - share) * (*mean)[to] + share * (*mean)[from];
  series.low[to] = std::min(series.low[to], series.low[from]);
  series.high[to] = std::max(series.high[to], series.high[from]);
}

void halve(Series& series) {
  if (series.low.empty()) series.low = series.high = series.values;
  const std::size_t half = series.values.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    for_each_column(series, [i](auto& column) { column[i] = column[2 * i]; });
    join(series, i, 2 * i + 1, series.values_a_point, series.values_a_point);
  }
  for_each_column(series, [half](auto& column) { column.resize(half); });
  series.values_a_point *= 2;
}

}  // namespace

void Series::add(double step, double value, std::size_t most_points) {
  if (!std::isfinite(value)) return;
  // The last value has stood by itself, though it may not be the first of its point.
  if (const std::int64_t before = num_values == 0 ? 0 : (num_values - 1) % values_a_point; before > 0) {
    join(*this, values.size() - 2, values.size() - 1, before, 1);
    for_each_column(*this, [](auto& column) { column.pop_back(); });
  }
  if (most_points > 0 && values.size() == most_points && num_values % values_a_point == 0) halve(*this);
  steps.push_back(step);
  values.push_back(value);
  if (values_a_point > 1) {
    low.push_back(value);
    high.push_back(value);
  }
  if (num_values == 0) {
    first_step = step;
    first_value = value;
  }
  ++num_values;
}

void add_time(std::vector<Stretch>& stretches, double time, std::size_t most) {
  stretches.push_back({.begin = time, .end = time});
  if (most == 0 || stretches.size() <= 2 * most) return;
  std::vector<double> gaps;
  for (std::size_t i = 1; i < stretches.size(); ++i) gaps.push_back(stretches[i].begin - stretches[i - 1].end);
  const auto longest_joined = gaps.begin() + static_cast<std::ptrdiff_t>(gaps.size() - most);
  std::ranges::nth_element(gaps, longest_joined);
  std::vector<Stretch> joined = {stretches.front()};
  for (std::size_t i = 1; i < stretches.size(); ++i) {
    const double gap = stretches[i].begin - joined.back().end;
    if (gap > *longest_joined) {
      joined.push_back(stretches[i]);
    } else {
      joined.back().end = stretches[i].end;
      joined.back().seconds += std::max(0.0, gap) + stretches[i].seconds;
    }
  }
  stretches = std::move(joined);
}

double Series::least() const { return std::ranges::min(low.empty() ? values : low); }

double Series::greatest() const { return std::ranges::max(high.empty() ? values : high); }

double RunRecord::last(const std::string& field, double otherwise) const {
  const auto found = series.find(field);
  return found == series.end() || found->second.values.empty() ? otherwise : found->second.values.back();
}

RecordReader::RecordReader(std::filesystem::path metrics, std::size_t most_points)
    : metrics_(std::move(metrics)), most_points_(most_points) {}
RecordReader::RecordReader(RecordReader&&) noexcept = default;
RecordReader& RecordReader::operator=(RecordReader&&) noexcept = default;
RecordReader::~RecordReader() = default;

const RunRecord& RecordReader::read() {
  static const RunRecord none;
  std::unique_ptr<Lines> lines = std::move(lines_);  // which go where a line throws
  if (!std::filesystem::exists(metrics_)) return none;
  if (!lines || !lines->continues()) lines = std::make_unique<Lines>(metrics_, most_points_);
  lines->read();
  lines_ = std::move(lines);
  return lines_->record();
}

}  // namespace limbeck::launch
