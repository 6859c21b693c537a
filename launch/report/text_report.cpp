#include "launch/report/text_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/counted.h"
#include "launch/console/progress.h"
#include "launch/report/differences_table.h"
#include "launch/run/evaluation_json.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t name_width = 34;
constexpr std::size_t most_rows = 20;

/// The end of a long name, which tells documents of one folder apart.
std::string shortened(const std::string& name) {
  return name.size() <= name_width ? name : "..." + name.substr(name.size() - name_width + 3);
}

std::vector<std::string> cells_of(const Evaluation& e, bool has_teacher, bool has_pairs) {
  const bool is_said = e.tokens > 0 && !e.is_of_rewards();
  const auto four = [&](double value) { return is_said ? fixed(value, 4) : "-"; };
  const auto bits = e.bits_per_byte();
  std::vector<std::string> cells = {fmt::format("{}", e.tokens), e.bytes ? fmt::format("{}", *e.bytes) : "-",
                                    four(e.cross_entropy), is_said ? fmt::format("{:.5g}", e.perplexity()) : "-",
                                    bits ? four(*bits) : "-"};
  if (has_teacher)
    cells.insert(cells.end(), {kl_text(e, e.kl), e.has_teacher() ? four(e.agreement) : "-", sum_min_text(e)});
  if (has_pairs)
    for (const auto value : {&PreferenceResult::accuracy, &PreferenceResult::margin})
      cells.push_back(e.preference ? fixed((*e.preference).*value, 4) : "-");
  return cells;
}

std::string row(const std::string& name, const std::vector<std::string>& cells) {
  std::string line = fmt::format("{:<{}}", shortened(name), name_width);
  for (const std::string& cell : cells) line += fmt::format("{:>12}", cell);
  return line + '\n';
}

std::string number(const std::optional<double>& value) { return value ? fixed(*value, 4) : "-"; }

/// What a row of the table has no room for, of all documents.
std::string further_text(const Evaluation& e) {
  const auto five = [](const std::optional<double>& value) { return value ? fmt::format("{:.5g}", *value) : "-"; };
  std::string text = fmt::format("\nperplexity        by token {}, by byte {}, by document {}\n", five(e.perplexity()),
                                 five(e.byte_perplexity()), five(e.document_perplexity()));
  text += fmt::format("calibration error {}", number(e.calibration_error));
  if (e.has_teacher()) text += fmt::format(", the teacher's {}", number(e.teacher_calibration_error));
  text += '\n';
  if (e.has_teacher())
    text += fmt::format("KL                mean {}, median {}, 90 % {}, 99 % {}\n", kl_text(e, e.kl),
                        kl_text(e, e.kl_median), kl_text(e, e.kl_p90), kl_text(e, e.kl_p99));
  return text;
}

/// The mean over the layers that have a value; nothing where none has.
std::optional<double> mean_of(const std::vector<LayerUse>& layers, std::optional<double> LayerUse::*value) {
  double sum = 0, count = 0;
  for (const LayerUse& layer : layers)
    if (layer.*value) {
      sum += *(layer.*value);
      count += 1;
    }
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

ExpertLoad load_of(const LayerUse& layer) {
  return expert_load(layer.assignments, std::accumulate(layer.assignments.begin(), layer.assignments.end(), 0.0));
}

std::string experts_text(const std::vector<LayerUse>& layers) {
  std::string text = row("experts: load, specialisation", {"entropy", "least", "most", "by token", "by document"});
  for (const LayerUse& layer : layers) {
    const ExpertLoad load = load_of(layer);
    text += row(fmt::format("layer {}", layer.layer),
                {fixed(load.entropy, 4), fixed(load.min, 4), fixed(load.max, 4), number(layer.token_specialisation),
                 number(layer.document_specialisation)});
  }
  return text;
}

nlohmann::ordered_json routing_json(const TextFigures& figures) {
  const std::vector<LayerUse>& layers = figures.experts;
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (figures.load) json = load_to_json(*figures.load);
  const auto put = [](nlohmann::ordered_json& to, const LayerUse& use) {
    if (use.token_specialisation) to["token_specialisation"] = *use.token_specialisation;
    if (use.document_specialisation) to["document_specialisation"] = *use.document_specialisation;
  };
  LayerUse mean;
  mean.token_specialisation = mean_of(layers, &LayerUse::token_specialisation);
  mean.document_specialisation = mean_of(layers, &LayerUse::document_specialisation);
  put(json, mean);
  json["layers"] = nlohmann::ordered_json::array();
  for (const LayerUse& layer : layers) {
    const ExpertLoad load = load_of(layer);
    nlohmann::ordered_json one = {
        {"layer", layer.layer}, {"entropy", load.entropy}, {"min", load.min}, {"max", load.max}};
    put(one, layer);
    one["assignments"] = nlohmann::ordered_json::array();
    for (const double n : layer.assignments) one["assignments"].push_back(std::llround(n));
    json["layers"].push_back(std::move(one));
  }
  return json;
}

}  // namespace

std::string figures_table(const NamedEvaluations& rows) {
  const bool has_teacher =
      std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.second.has_teacher(); });
  std::vector<std::string> head = {"tokens", "bytes", "ce", "perplexity", "bits/byte"};
  if (has_teacher) head.insert(head.end(), {"KL", "top-1", "sum min"});
  const bool has_pairs =
      std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.second.preference.has_value(); });
  if (has_pairs) head.insert(head.end(), {"right", "margin"});
  std::string text = row("", head);
  for (const auto& [name, evaluation] : rows) text += row(name, cells_of(evaluation, has_teacher, has_pairs));
  return text;
}

std::string to_text(const TextReport& r) {
  const std::size_t count = r.names.size();
  NamedEvaluations rows;
  for (std::size_t d = 0; d < std::min(count, most_rows); ++d) rows.emplace_back(r.names[d], r.figures.documents[d]);
  if (count > 1) rows.emplace_back("in all", r.figures.all);
  std::string text = fmt::format("{}, windows of {}, stride {}\n\n", core::counted(std::ssize(r.names), "document"),
                                 core::counted(r.windows.length, "token"), r.windows.stride);
  text += figures_table(rows);
  if (count > most_rows) text += fmt::format("(of {} documents the first {}; --json has all)\n", count, most_rows);
  text += further_text(r.figures.all);
  if (!r.figures.experts.empty()) text += '\n' + experts_text(r.figures.experts);
  if (!r.against.empty()) text += differences_text(r.against, "documents", r.differences);
  return text;
}

nlohmann::ordered_json to_json(const TextReport& r) {
  nlohmann::ordered_json json = {{"model", r.model}};
  if (r.step) json["step"] = *r.step;
  if (!r.teacher.empty()) json["teacher"] = r.teacher;
  json["window"] = r.windows.length;
  json["stride"] = r.windows.stride;
  json["all"] = evaluation_to_json(r.figures.all);
  if (!r.figures.experts.empty()) json["routing"] = routing_json(r.figures);
  if (!r.against.empty()) json["against"] = differences_json(r.against, r.differences);
  if (r.trained_on) json["in_training_text"] = r.trained_on->size();
  json["documents"] = nlohmann::ordered_json::array();
  for (std::size_t d = 0; d < r.names.size(); ++d) {
    nlohmann::ordered_json document = {{"name", r.names[d]}};
    document.update(evaluation_to_json(r.figures.documents[d]));
    if (r.trained_on) document["in_training_text"] = std::binary_search(r.trained_on->begin(), r.trained_on->end(), d);
    json["documents"].push_back(std::move(document));
  }
  return json;
}

}  // namespace limbeck::launch
