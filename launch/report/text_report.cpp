#include "launch/report/text_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/counted.h"
#include "launch/console/progress.h"
#include "launch/run/evaluation_json.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t name_width = 34;
constexpr std::size_t most_rows = 20;

/// The end of a long name, which tells documents of one folder apart.
std::string shortened(const std::string& name) {
  return name.size() <= name_width ? name : "..." + name.substr(name.size() - name_width + 3);
}

std::vector<std::string> cells_of(const Evaluation& e, bool has_teacher) {
  const auto four = [&](double value) { return e.tokens > 0 ? fixed(value, 4) : "-"; };
  const auto bits = e.bits_per_byte();
  std::vector<std::string> cells = {fmt::format("{}", e.tokens), e.bytes ? fmt::format("{}", *e.bytes) : "-",
                                    four(e.cross_entropy), e.tokens > 0 ? fmt::format("{:.5g}", e.perplexity()) : "-",
                                    bits && e.tokens > 0 ? four(*bits) : "-"};
  if (has_teacher)
    for (const double value : {e.kl, e.agreement, e.sum_min}) cells.push_back(e.has_teacher() ? four(value) : "-");
  return cells;
}

std::string row(const std::string& name, const std::vector<std::string>& cells) {
  std::string line = fmt::format("{:<{}}", shortened(name), name_width);
  for (const std::string& cell : cells) line += fmt::format("{:>12}", cell);
  return line + '\n';
}

}  // namespace

std::string figures_table(const NamedEvaluations& rows) {
  const bool has_teacher =
      std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.second.has_teacher(); });
  std::vector<std::string> head = {"tokens", "bytes", "ce", "perplexity", "bits/byte"};
  if (has_teacher) head.insert(head.end(), {"KL", "top-1", "sum min"});
  std::string text = row("", head);
  for (const auto& [name, evaluation] : rows) text += row(name, cells_of(evaluation, has_teacher));
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
  return text;
}

nlohmann::ordered_json to_json(const TextReport& r) {
  nlohmann::ordered_json json = {{"model", r.model}};
  if (r.step) json["step"] = *r.step;
  if (!r.teacher.empty()) json["teacher"] = r.teacher;
  json["window"] = r.windows.length;
  json["stride"] = r.windows.stride;
  json["all"] = evaluation_to_json(r.figures.all);
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
