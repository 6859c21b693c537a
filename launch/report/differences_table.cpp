#include "launch/report/differences_table.h"

#include <fmt/format.h>

namespace limbeck::launch {

std::string differences_text(const std::string& against, const std::string& units,
                             const std::vector<FigureDifference>& differences) {
  if (differences.empty())
    return fmt::format("\nagainst {}: two or more {} are needed for intervals of differences\n", against, units);
  std::string text = fmt::format(
      "\nagainst {}: 95 % intervals by {} resamples of the {}\n\n{:<22}{:>12}{:>12}{:>12}{:>26}{:>9}\n", against,
      BootstrapOptions().resamples, units, "", "model", "against", "difference", "95 % interval", "p");
  for (const FigureDifference& d : differences)
    text += fmt::format("{:<22}{:>12.5g}{:>12.5g}{:>+12.4g}{:>26}{:>9.4f}\n", d.name, d.model, d.against, d.difference,
                        fmt::format("{:+.4g} to {:+.4g}", d.low, d.high), d.p_value);
  return text;
}

nlohmann::ordered_json differences_json(const std::string& against, const std::vector<FigureDifference>& differences) {
  const BootstrapOptions options;
  nlohmann::ordered_json json = {{"model", against}, {"resamples", options.resamples}, {"seed", options.seed}};
  json["differences"] = nlohmann::ordered_json::object();
  for (const FigureDifference& d : differences)
    json["differences"][d.name] = {{"value", d.model}, {"against", d.against}, {"difference", d.difference},
                                   {"low", d.low},     {"high", d.high},       {"p_value", d.p_value}};
  return json;
}

}  // namespace limbeck::launch
