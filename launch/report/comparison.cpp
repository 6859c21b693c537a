#include "launch/report/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>
#include <set>

#include "data/tokenizers/unicode.h"
#include "launch/config/config_differences.h"
#include "launch/console/log.h"
#include "launch/console/progress.h"
#include "launch/report/html.h"

namespace limbeck::launch {

namespace {

using Json = nlohmann::ordered_json;
using Value = std::optional<double>;

constexpr std::size_t columns = 100;
constexpr std::size_t label_width = 26;
constexpr std::size_t gap = 2;

enum class Better : std::uint8_t { Lower, Higher, Neither };

/// A figure that runs have, its name in JSON and how it is shown.
struct Row {
  std::string label;
  std::string key;  // with dots into nested objects
  std::function<Value(const RunResults&)> value;
  std::function<std::string(double)> show;
  Better better = Better::Neither;
};

std::string bytes_text(double bytes) {
  constexpr double mib = 1024.0 * 1024;
  return bytes < 1024 * mib ? fmt::format("{:.0f} MiB", bytes / mib) : fmt::format("{:.2f} GiB", bytes / mib / 1024);
}

std::string four(double value) { return fixed(value, 4); }
std::string whole(double value) { return grouped(std::llround(value)); }

Row held_out(const char* label, const char* key, Better better, const std::function<std::string(double)>& show = four) {
  return {label, key, [key](const RunResults& run) { return run.after ? run.after->figure(key) : std::nullopt; }, show,
          better};
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

/// A row for each figure of each set that a run was evaluated on.
void add_sets(std::vector<Row>& rows, const std::vector<RunResults>& runs) {
  std::set<std::string> names;
  for (const RunResults& run : runs)
    if (run.after)
      for (const auto& [name, _] : run.after->sets) names.insert(name);
  for (const std::string& name : names)
    for (const auto& [label, key, better] :
         {std::tuple{"cross-entropy", "ce", Better::Lower}, std::tuple{"perplexity", "perplexity", Better::Lower},
          std::tuple{"bits a byte", "bits_per_byte", Better::Lower}, std::tuple{"KL", "kl", Better::Lower},
          std::tuple{"top-1 agreement", "top1_agreement", Better::Higher}}) {
      const auto value = [name, key = key](const RunResults& run) -> Value {
        if (!run.after || !run.after->sets.contains(name)) return std::nullopt;
        return figure_of(run.after->sets.at(name), key);
      };
      if (std::none_of(runs.begin(), runs.end(), [&](const RunResults& run) { return value(run).has_value(); }))
        continue;
      rows.push_back({fmt::format("{}: {}", name, label), fmt::format("sets.{}.{}", name, key), value,
                      std::string_view(key) == "perplexity" ? perplexity_text : four, better});
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
      held_out("  bits a byte", "bits_per_byte", Better::Lower),
      held_out("  teacher's", "teacher_ce", Better::Neither),
      held_out("KL to the teacher", "kl", Better::Lower),
      held_out("top-1 agreement", "top1_agreement", Better::Higher),
      held_out("acceptance", "sum_min", Better::Higher),
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

/// Columns that a text takes on a terminal, each character one.
std::size_t width_of(const std::string& text) { return data::code_points(data::repair_utf8(text).utf8).size(); }
std::string left(const std::string& text, std::size_t width) {
  return text + std::string(width - std::min(width, width_of(text)), ' ');
}
std::string right(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, width_of(text)), ' ') + text;
}

std::string value_text(const Json& value) {
  if (value.is_null()) return "-";
  return one_line(value.is_string() ? value.get<std::string>()
                                    : value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

using Cells = std::vector<std::string>;

std::string draw(const std::vector<ComparisonRow>& rows, std::size_t first, std::size_t last, std::size_t width) {
  std::string text;
  for (const ComparisonRow& row : rows) {
    text += left(row.label, label_width);
    for (std::size_t i = first; i < last; ++i)
      text += right(fmt::format("{}{}", row.is_best[i] ? "*" : "", row.cells[i]), width);
    while (text.ends_with(' ')) text.pop_back();
    text += '\n';
  }
  return text;
}

/// Names, or where they are too long for a column the runs' numbers, which a list before the table explains.
Cells headings(const std::vector<RunResults>& runs, std::string& key) {
  constexpr std::size_t narrow = 12;  // what figures need
  Cells names;
  std::set<std::string> distinct;
  for (const RunResults& run : runs) names.push_back(one_line(run.name));
  const bool fit = std::all_of(names.begin(), names.end(), [&](const std::string& name) {
    return width_of(name) + gap <= std::max(narrow, (columns - label_width) / runs.size()) &&
           distinct.insert(name).second;
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
  constexpr std::array<std::string_view, 8> fields = {
      "data.tokens", "data.text",    "data.tokenizer",   "data.sequence_length", "data.held_out_fraction",
      "data.seed",   "data.sources", "train.eval_tokens"};
  return std::find(fields.begin(), fields.end(), d.field) != fields.end();
}

}  // namespace

std::string short_count(double value) {
  if (value < 1e5) return grouped(std::llround(value));
  if (value < 1e6) return fmt::format("{:.1f}k", value / 1e3);
  if (value < 1e9) return fmt::format("{:.1f}M", value / 1e6);
  return fmt::format("{:.2f}G", value / 1e9);
}

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
  const Cells names = headings(runs, text);
  std::vector<ComparisonRow> rows = {row_of("", names)};
  rows.insert(rows.end(), comparison.figures.begin(), comparison.figures.end());
  std::size_t width = 0;
  for (const ComparisonRow& row : rows)
    for (const std::string& cell : row.cells) width = std::max(width, width_of(cell) + 1 + gap);  // 1: for the mark
  // A field whose name or values are too long for the columns has lines of its own.
  std::string long_ones;
  if (!comparison.fields.empty()) rows.push_back(row_of("config", Cells(runs.size())));
  for (const ComparisonRow& field : comparison.fields) {
    const bool fits = width_of(field.label) + gap < label_width &&
                      std::all_of(field.cells.begin(), field.cells.end(),
                                  [&](const std::string& cell) { return width_of(cell) + gap <= width; });
    if (fits) {
      rows.push_back(row_of(fmt::format("  {}", field.label), field.cells));
      continue;
    }
    long_ones += fmt::format("  {}\n", field.label);
    for (std::size_t i = 0; i < runs.size(); ++i) long_ones += fmt::format("    {}: {}\n", names[i], field.cells[i]);
  }
  const std::size_t at_once = std::max<std::size_t>(1, (columns - label_width) / width);
  for (std::size_t first = 0; first < runs.size(); first += at_once)
    text +=
        fmt::format("{}{}", text.empty() ? "" : "\n", draw(rows, first, std::min(first + at_once, runs.size()), width));
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
  std::string text = fmt::format("{} {}\n", left("state", label_width), name_of(run.state));
  text += fmt::format("{} {} of {}\n", left("steps", label_width), grouped(run.record.last_step),
                      grouped(run.config.train.steps));
  for (const Row& row : rows_of({run})) {
    const Value value = row.value(run);
    if (!value) continue;
    text += fmt::format("{} {}", left(one_line(row.label), label_width), row.show(*value));
    const bool is_held_out = run.after && run.after->figures.contains(row.key);
    const Value before = is_held_out && run.before ? run.before->figure(row.key) : std::nullopt;
    text += before ? fmt::format("  ({} before)\n", row.show(*before)) : "\n";
  }
  if (run.best)
    text += fmt::format("{} step {}, by {}: {}\n", left("best checkpoint", label_width), grouped(run.best->step),
                        one_line(run.best->figure), four(run.best->value));
  return text;
}

Json results_json(const RunResults& run) {
  Json json = {{"name", run.name},
               {"path", run.path.string()},
               {"kind", run.config.teacher ? "distillation" : "training"},
               {"state", name_of(run.state)},
               {"step", run.record.last_step},
               {"steps", run.config.train.steps}};
  for (const Row& row : rows_of({}))
    if (const Value value = row.value(run)) {
      const Json number = *value == std::floor(*value) && std::abs(*value) < 1e15
                              ? Json(static_cast<std::int64_t>(*value))
                              : Json(*value);
      const std::size_t dot = row.key.find('.');
      (dot == std::string::npos ? json[row.key] : json[row.key.substr(0, dot)][row.key.substr(dot + 1)]) = number;
    }
  if (run.after && !run.after->sets.empty()) json["sets"] = run.after->sets;
  if (run.after) json["held_out_step"] = run.after_step;
  if (run.before && !run.before->figures.empty()) json["before"] = run.before->figures;
  if (run.best) json["best"] = {{"figure", run.best->figure}, {"value", run.best->value}, {"step", run.best->step}};
  if (!run.facts.starts.empty()) {
    const RunStarted& start = run.facts.starts.back();
    json.update({{"layout", start.layout}, {"command", start.command}, {"host", start.host}});
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
  for (const Row& row : rows_of(runs)) {
    const std::vector<bool> best = best_of(row, runs);
    for (std::size_t i = 0; i < runs.size(); ++i)
      if (best[i]) json["best"][row.key].push_back(i);
  }
  return json;
}

}  // namespace limbeck::launch
