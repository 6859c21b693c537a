#include "launch/report/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <set>

#include "launch/config/config_differences.h"
#include "launch/console/columns.h"
#include "launch/console/log.h"
#include "launch/console/numbers.h"
#include "launch/console/progress.h"
#include "launch/report/html.h"

namespace limbeck::launch {

namespace {

using Json = nlohmann::ordered_json;
using Value = std::optional<double>;

constexpr std::size_t columns = 100;
constexpr std::size_t least_label_width = 26;
constexpr std::size_t most_label_width = 44;  // a longer label has a line of its own
constexpr std::size_t gap = 2;

enum class Better : std::uint8_t { Lower, Higher, Neither };

/// A figure that runs have, its name in JSON and how it is shown.
struct Row {
  std::string label;
  std::string key;  // with dots into nested objects
  std::function<Value(const RunResults&)> value;
  std::function<std::string(double)> show;
  Better better = Better::Neither;
  std::function<Value(const RunResults&)> before = {};  // the first step; empty: it has no such value
};

std::string bytes_text(double bytes) {
  constexpr double mib = 1024.0 * 1024;
  return bytes < 1024 * mib ? fmt::format("{:.0f} MiB", bytes / mib) : fmt::format("{:.2f} GiB", bytes / mib / 1024);
}

std::string four(double value) { return fixed(value, 4); }
std::string whole(double value) { return grouped(std::llround(value)); }

Row held_out(const char* label, const char* key, Better better, const std::function<std::string(double)>& show = four) {
  return {label, key,    [key](const RunResults& run) { return run.after ? run.after->figure(key) : std::nullopt; },
          show,  better, [key](const RunResults& run) { return run.before ? run.before->figure(key) : std::nullopt; }};
}

Row parameters(const char* label, const char* key, std::int64_t ParameterFigures::*field) {
  return {label, fmt::format("parameters.{}", key),
          [field](const RunResults& run) -> Value {
            if (!run.facts.model) return std::nullopt;
            return static_cast<double>((*run.facts.model).*field);
          },
          short_count};
}

Value last(const RunResults& run, const char* field) {
  const auto found = run.record.series.find(field);
  if (found == run.record.series.end() || found->second.values.empty()) return std::nullopt;
  return found->second.values.back();
}

std::string perplexity_text(double value) { return value < 1e5 ? fixed(value, 2) : fmt::format("{:.3g}", value); }

Value of_set(const std::optional<Measured>& measured, const std::string& set, const char* figure) {
  if (!measured || !measured->sets.contains(set)) return std::nullopt;
  return figure_of(measured->sets.at(set), figure);
}

/// A row for each figure of each set that a run was evaluated on, in the order of their configs.
void add_sets(std::vector<Row>& rows, const std::vector<RunResults>& runs) {
  std::vector<std::string> names;
  for (const RunResults& run : runs)
    for (const std::string& name : run.set_names())
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  for (const std::string& name : names)
    for (const auto& [label, key, better] :
         {std::tuple{"cross-entropy", "ce", Better::Lower}, std::tuple{"perplexity", "perplexity", Better::Lower},
          std::tuple{"bits/byte", "bits_per_byte", Better::Lower},
          std::tuple{"calibration error", "ece", Better::Lower}, std::tuple{"KL", "kl", Better::Lower},
          std::tuple{"KL, at least", "kl_lower_bound", Better::Lower},
          std::tuple{"KL, estimated", "kl_estimate", Better::Lower},
          std::tuple{"top-1 agreement", "top1_agreement", Better::Higher},
          std::tuple{"acceptance", "sum_min", Better::Higher},
          std::tuple{"acceptance, at most", "sum_min_upper_bound", Better::Higher},
          std::tuple{"pairs right", "preference_accuracy", Better::Higher}}) {
      const auto value = [name, key = key](const RunResults& run) { return of_set(run.after, name, key); };
      const auto before = [name, key = key](const RunResults& run) { return of_set(run.before, name, key); };
      if (std::none_of(runs.begin(), runs.end(), [&](const RunResults& run) { return value(run).has_value(); }))
        continue;
      rows.push_back({fmt::format("{}: {}", name, label), fmt::format("sets.{}.{}", name, key), value,
                      std::string_view(key) == "perplexity" ? perplexity_text : four, better, before});
    }
}

std::vector<Row> rows_of(const std::vector<RunResults>& runs) {
  std::vector<Row> rows = {
      {"tokens", "tokens", [](const RunResults& run) { return last(run, "tokens"); }, short_count},
      parameters("parameters", "total", &ParameterFigures::total),
      parameters("  active a token", "active", &ParameterFigures::active),
      parameters("  trained", "trainable", &ParameterFigures::trainable),
      {"loss, last step", "loss", [](const RunResults& run) { return last(run, "loss"); }, four, Better::Lower},
      held_out("cross-entropy, held out", "ce", Better::Lower),
      held_out("  perplexity", "perplexity", Better::Lower, perplexity_text),
      held_out("  bits/byte", "bits_per_byte", Better::Lower),
      held_out("  teacher's", "teacher_ce", Better::Neither),
      held_out("calibration error", "ece", Better::Lower),
      held_out("  teacher's", "teacher_ece", Better::Neither),
      held_out("KL to the teacher", "kl", Better::Lower),
      held_out("  median", "kl_median", Better::Lower),
      held_out("  90 %", "kl_p90", Better::Lower),
      held_out("  99 %", "kl_p99", Better::Lower),
      held_out("KL to the teacher, at least", "kl_lower_bound", Better::Lower),
      held_out("KL to the teacher, estimated", "kl_estimate", Better::Lower),
      held_out("  by span", "span_kl", Better::Lower),
      held_out("  of sorted distributions", "uld", Better::Lower),
      held_out("top-1 agreement", "top1_agreement", Better::Higher),
      held_out("acceptance", "sum_min", Better::Higher),
      held_out("acceptance, at most", "sum_min_upper_bound", Better::Higher),
      held_out("pairs of responses: right", "preference_accuracy", Better::Higher),
      held_out("  margin of rewards", "preference_margin", Better::Higher),
      held_out("expert load: entropy", "load_entropy", Better::Higher),
      held_out("  of the worst layer", "load_worst_entropy", Better::Higher),
      held_out("  starved experts", "starved_experts", Better::Lower, whole)};
  add_sets(rows, runs);
  const std::vector<Row> costs = {
      {"tokens/s", "tokens_per_s", &RunResults::tokens_per_s, whole, Better::Higher},
      {"training time", "seconds", &RunResults::training_seconds, duration_text},
      {"wall time", "wall_seconds", &RunResults::wall_seconds, duration_text},
      {"peak memory, first rank", "peak_bytes", &RunResults::peak_bytes, bytes_text, Better::Lower},
      {"ranks", "ranks",
       [](const RunResults& run) -> Value {
         if (run.facts.starts.empty()) return std::nullopt;
         return static_cast<double>(run.facts.starts.back().ranks);
       },
       whole},
      {"  threads each", "threads_per_rank",
       [](const RunResults& run) -> Value {
         if (run.facts.starts.empty()) return std::nullopt;
         return static_cast<double>(run.facts.starts.back().threads);
       },
       whole}};
  rows.insert(rows.end(), costs.begin(), costs.end());
  return rows;
}

/// Which runs have the best of a figure; none where fewer than two have it, or all the same.
std::vector<bool> best_of(const Row& row, const std::vector<RunResults>& runs) {
  std::vector<bool> best(runs.size(), false);
  std::vector<double> values;
  for (const RunResults& run : runs)
    if (const Value value = row.value(run)) values.push_back(*value);
  if (row.better == Better::Neither || values.size() < 2) return best;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (*low == *high) return best;
  const double wanted = row.better == Better::Lower ? *low : *high;
  for (std::size_t i = 0; i < runs.size(); ++i) best[i] = row.value(runs[i]) == wanted;
  return best;
}

/// Of what was measured of two models, the second's less the first's.
Value difference_of(const Row& row, const std::vector<RunResults>& runs) {
  if (runs.size() != 2 || !row.before) return std::nullopt;
  const Value first = row.value(runs[0]), second = row.value(runs[1]);
  return first && second ? Value(*second - *first) : std::nullopt;
}

std::string left(const std::string& text, std::size_t width) {
  return text + std::string(width - std::min(width, width_of(text)), ' ');
}
std::string right(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, width_of(text)), ' ') + text;
}

std::string value_text(const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_array()) {
    std::string list;
    for (const Json& entry : value) list += (list.empty() ? "" : ", ") + value_text(entry);
    return list.empty() ? "none" : list;
  }
  if (value == Json("")) return "none";
  return one_line(value.is_string() ? value.get<std::string>()
                                    : value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

using Cells = std::vector<std::string>;

/// Of the first column, for labels of up to `most` with the gap.
std::size_t label_width(const std::vector<std::string>& labels, std::size_t most) {
  std::size_t width = least_label_width;
  for (const std::string& label : labels)
    if (const std::size_t needed = width_of(label) + gap; needed <= most) width = std::max(width, needed);
  return width;
}

/// A label in the first column; one that is too long for it above.
std::string label_cell(const std::string& label, std::size_t width) {
  return width_of(label) + gap <= width ? left(label, width) : label + '\n' + std::string(width, ' ');
}

std::string draw(const std::vector<ComparisonRow>& rows, std::size_t first, std::size_t last, std::size_t labels,
                 std::size_t width) {
  std::string text;
  for (const ComparisonRow& row : rows) {
    text += label_cell(row.label, labels);
    for (std::size_t i = first; i < last; ++i)
      text += right(fmt::format("{}{}", row.is_best[i] ? "*" : "", row.cells[i]), width);
    while (text.ends_with(' ')) text.pop_back();
    text += '\n';
  }
  return text;
}

/// Names, or where they are too long for a column the runs' numbers, which a list before the table explains.
Cells headings(const std::vector<RunResults>& runs, std::size_t labels, std::string& key) {
  constexpr std::size_t narrow = 12;  // what figures need
  Cells names;
  std::set<std::string> distinct;
  for (const RunResults& run : runs) names.push_back(one_line(run.name));
  const bool fit = std::all_of(names.begin(), names.end(), [&](const std::string& name) {
    return width_of(name) + gap <= std::max(narrow, (columns - labels) / runs.size()) && distinct.insert(name).second;
  });
  if (fit) return names;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    names[i] = fmt::format("[{}]", i + 1);
    key += fmt::format("[{}] {}\n", i + 1, one_line(runs[i].path.string()));
  }
  return names;
}

ComparisonRow row_of(std::string label, Cells cells) {
  const std::size_t n = cells.size();
  return {std::move(label), std::move(cells), std::vector<bool>(n, false)};
}

std::vector<ComparisonRow> figure_rows(const std::vector<RunResults>& runs) {
  Cells states, steps;
  for (const RunResults& run : runs) {
    states.emplace_back(name_of(run.state));
    steps.push_back(run.record.last_step == run.config.train.steps
                        ? grouped(run.record.last_step)
                        : fmt::format("{} of {}", grouped(run.record.last_step), grouped(run.config.train.steps)));
  }
  std::vector<ComparisonRow> rows = {row_of("state", states), row_of("steps", steps)};
  for (const Row& row : rows_of(runs)) {
    ComparisonRow shown{one_line(row.label), {}, best_of(row, runs)};
    bool is_known = false;
    for (const RunResults& run : runs) {
      const Value value = row.value(run);
      is_known = is_known || value;
      shown.cells.push_back(value ? row.show(*value) : "-");
    }
    if (const Value difference = difference_of(row, runs)) shown.difference = fmt::format("{:+.4g}", *difference);
    if (is_known) rows.push_back(std::move(shown));
  }
  return rows;
}

/// Where a run writes is what it is called.
std::vector<ConfigDifference> differences(const std::vector<RunResults>& runs) {
  std::vector<RunConfig> configs;
  for (const RunResults& run : runs) configs.push_back(run.config);
  std::vector<ConfigDifference> result = config_differences(configs);
  std::erase_if(result, [](const ConfigDifference& d) { return d.field == "output.dir"; });
  return result;
}

/// Figures of held-out samples that are not the same sample do not compare.
bool has_another_sample(const ConfigDifference& d) {
  return (d.lies_in("data") && !d.lies_in("data.cache_dir")) || d.lies_in("train.eval_tokens");
}

/// Counts are whole numbers.
Json number_json(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? Json(static_cast<std::int64_t>(value)) : Json(value);
}

Json figures_json(const Figures& figures) {
  Json json = Json::object();
  for (const auto& [name, value] : figures) json[name] = number_json(value);
  return json;
}

/// By set, in the order of the config.
Json sets_json(const RunResults& run, const Measured& measured) {
  Json json = Json::object();
  for (const std::string& name : run.set_names())
    if (measured.sets.contains(name)) json[name] = figures_json(measured.sets.at(name));
  return json;
}

}  // namespace

Comparison compare_runs(const std::vector<RunResults>& runs) {
  const std::vector<ConfigDifference> differing = differences(runs);
  Comparison result{figure_rows(runs), {}, std::none_of(differing.begin(), differing.end(), has_another_sample)};
  for (const ConfigDifference& d : differing) {
    Cells cells;
    for (const Json& value : d.values) cells.push_back(value_text(value));
    result.fields.push_back(row_of(d.field, std::move(cells)));
  }
  return result;
}

std::string comparison_table(const std::vector<RunResults>& runs) {
  const Comparison comparison = compare_runs(runs);
  std::string text;
  Cells labels;
  for (const auto* list : {&comparison.figures, &comparison.fields})
    for (const ComparisonRow& row : *list) labels.push_back((list == &comparison.fields ? "  " : "") + row.label);
  const std::size_t first_column = label_width(labels, most_label_width);
  const Cells names = headings(runs, first_column, text);
  std::vector<ComparisonRow> rows = {row_of("", names)};
  rows.insert(rows.end(), comparison.figures.begin(), comparison.figures.end());
  const bool have_differences =
      std::any_of(rows.begin(), rows.end(), [](const ComparisonRow& row) { return !row.difference.empty(); });
  if (have_differences) rows.front().difference = "difference";
  const std::size_t num_columns = runs.size() + (have_differences ? 1 : 0);
  std::size_t width = 0;
  for (const ComparisonRow& row : rows) {
    if (have_differences) width = std::max(width, width_of(row.difference) + 1 + gap);
    for (const std::string& cell : row.cells) width = std::max(width, width_of(cell) + 1 + gap);  // 1: for the mark
  }
  // A field whose name or values are too long for the columns has lines of its own.
  std::string long_ones;
  if (!comparison.fields.empty()) rows.push_back(row_of("config", Cells(runs.size())));
  for (const ComparisonRow& field : comparison.fields) {
    const bool fits = width_of(field.label) + 2 + gap <= first_column &&
                      std::all_of(field.cells.begin(), field.cells.end(),
                                  [&](const std::string& cell) { return width_of(cell) + gap <= width; });
    if (fits) {
      rows.push_back(row_of(fmt::format("  {}", field.label), field.cells));
      continue;
    }
    long_ones += fmt::format("  {}\n", field.label);
    for (std::size_t i = 0; i < runs.size(); ++i) long_ones += fmt::format("    {}: {}\n", names[i], field.cells[i]);
  }
  const std::size_t at_once = std::max<std::size_t>(1, (columns - first_column) / width);
  for (ComparisonRow& row : rows) {
    if (have_differences) row.cells.push_back(row.difference);
    row.is_best.resize(num_columns);
  }
  for (std::size_t first = 0; first < num_columns; first += at_once)
    text += fmt::format("{}{}", text.empty() ? "" : "\n",
                        draw(rows, first, std::min(first + at_once, num_columns), first_column, width));
  text += long_ones;
  const auto has_best = [](const ComparisonRow& row) {
    return std::find(row.is_best.begin(), row.is_best.end(), true) != row.is_best.end();
  };
  if (std::any_of(rows.begin(), rows.end(), has_best)) text += "\n* the best\n";
  if (!comparison.is_of_one_sample)
    text += "The held-out figures are not all of the same sample: the configs' data differ.\n";
  return text;
}

std::string results_text(const RunResults& run) {
  std::vector<std::pair<std::string, std::string>> lines = {
      {"state", state_text(run)},
      {"steps", fmt::format("{} of {}", grouped(run.record.last_step), grouped(run.config.train.steps))}};
  for (const Row& row : rows_of({run})) {
    const Value value = row.value(run);
    if (!value) continue;
    const Value before = row.before ? row.before(run) : std::nullopt;
    lines.emplace_back(one_line(row.label),
                       row.show(*value) + (before ? fmt::format("  ({} before)", row.show(*before)) : ""));
  }
  if (run.best)
    lines.emplace_back("best checkpoint", fmt::format("step {}, by {}: {}", grouped(run.best->step),
                                                      one_line(run.best->figure), four(run.best->value)));
  Cells labels;
  for (const auto& [label, _] : lines) labels.push_back(label);
  std::string text;
  const std::size_t width = label_width(labels, columns - 30);  // one column of values
  for (const auto& [label, value] : lines) text += label_cell(label, width) + value + '\n';
  return text;
}

Json results_json(const RunResults& run) {
  Json json = {{"name", run.name},
               {"path", run.path.string()},
               {"kind", kind_of(run)},
               {"state", name_of(run.state)},
               {"step", run.record.last_step},
               {"steps", run.config.train.steps}};
  for (const Row& row : rows_of({}))
    if (const Value value = row.value(run)) {
      const Json number = number_json(*value);
      const std::size_t dot = row.key.find('.');
      (dot == std::string::npos ? json[row.key] : json[row.key.substr(0, dot)][row.key.substr(dot + 1)]) = number;
    }
  if (run.after && !run.after->sets.empty()) json["sets"] = sets_json(run, *run.after);
  if (run.after) json["held_out_step"] = run.after_step;
  if (run.before) {
    json["before"] = figures_json(run.before->figures);
    if (!run.before->sets.empty()) json["before"]["sets"] = sets_json(run, *run.before);
  }
  if (run.best) json["best"] = {{"figure", run.best->figure}, {"value", run.best->value}, {"step", run.best->step}};
  if (!run.facts.starts.empty()) {
    const RunStarted& start = run.facts.starts.back();
    json.update({{"layout", start.layout}, {"command", start.command}, {"host", start.host}});
    if (start.teacher_ranks > 0) json["teacher_ranks"] = start.teacher_ranks;
    if (!start.teacher_layout.empty()) json["teacher_layout"] = start.teacher_layout;
  }
  return json;
}

Json comparison_json(const std::vector<RunResults>& runs) {
  const std::vector<ConfigDifference> differing = differences(runs);
  Json json = {{"runs", Json::array()}, {"differing_fields", Json::array()}, {"best", Json::object()}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Json run = results_json(runs[i]);
    run["config"] = Json::object();
    for (const ConfigDifference& d : differing)
      if (!d.values[i].is_null()) run["config"][d.field] = d.values[i];
    json["runs"].push_back(std::move(run));
  }
  for (const ConfigDifference& d : differing) json["differing_fields"].push_back(d.field);
  Json differences = Json::object();
  for (const Row& row : rows_of(runs)) {
    const std::vector<bool> best = best_of(row, runs);
    for (std::size_t i = 0; i < runs.size(); ++i)
      if (best[i]) json["best"][row.key].push_back(i);
    if (const Value difference = difference_of(row, runs)) differences[row.key] = number_json(*difference);
  }
  if (runs.size() == 2) json["differences"] = std::move(differences);
  return json;
}

}  // namespace limbeck::launch
