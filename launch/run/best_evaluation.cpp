#include "launch/run/best_evaluation.h"

#include <algorithm>
#include <cmath>

#include "data/files/json_at.h"
#include "launch/config/figure.h"

namespace limbeck::launch {

nlohmann::json to_json(const BestEvaluation& best) {
  return {{"figure", best.figure}, {"step", best.step}, {"value", best.value}, {"without_gain", best.without_gain}};
}

BestEvaluation best_from_json(const nlohmann::json& json, const std::string& where) {
  const data::JsonAt best(json, where);
  const auto count = [&](const char* name) {
    const std::int64_t value = best.at(name).whole();
    if (value < 0) best.at(name).refuse("a whole number, 0 or more");
    return value;
  };
  const auto& value = best.at("value").json();
  if (!value.is_number()) best.at("value").refuse("a number");
  return {.figure = best.at("figure").text(),
          .step = count("step"),
          .value = value.get<double>(),
          .without_gain = count("without_gain")};
}

std::optional<double> figure_of(const Measurement& measurement, const std::string& figure) {
  const FigureName name = figure_name(figure);
  const Evaluation* evaluation = &measurement.held_out;
  if (!name.set.empty()) {
    const auto found = std::find_if(measurement.sets.begin(), measurement.sets.end(),
                                    [&](const auto& set) { return set.first == name.set; });
    if (found == measurement.sets.end()) return std::nullopt;
    evaluation = &found->second;
  }
  if (evaluation->tokens == 0) return std::nullopt;
  if (needs_teacher(name)) {
    for (const auto& [of_teacher, value] : teacher_figures(*evaluation))
      if (of_teacher == name.figure) return value;
    return std::nullopt;
  }
  if (needs_pairs(name)) {
    if (!evaluation->preference) return std::nullopt;
    const PreferenceResult& of_pairs = *evaluation->preference;
    return name.figure == "preference_loss"       ? of_pairs.loss
           : name.figure == "preference_accuracy" ? of_pairs.accuracy
                                                  : of_pairs.margin;
  }
  if (evaluation->is_of_rewards()) return std::nullopt;
  if (name.figure == "ce") return evaluation->cross_entropy;
  if (name.figure == "perplexity") return evaluation->perplexity();
  if (name.figure == "bits_per_byte") return evaluation->bits_per_byte();
  return std::nullopt;
}

bool offer(std::optional<BestEvaluation>& best, const std::string& figure, std::int64_t step,
           const Measurement& measurement, bool regular) {
  const std::optional<double> value = figure_of(measurement, figure);
  if (!value) return false;
  if (!best || best->figure != figure || (rises(figure_name(figure)) ? *value > best->value : *value < best->value)) {
    best = BestEvaluation{.figure = figure, .step = step, .value = *value, .without_gain = 0};
    return true;
  }
  if (regular) ++best->without_gain;
  return false;
}

}  // namespace limbeck::launch
