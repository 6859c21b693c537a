#include "launch/run/evaluation_json.h"

#include <array>
#include <cmath>
#include <utility>

namespace limbeck::launch {

namespace {

using Json = nlohmann::ordered_json;
using Names = std::pair<const char*, const char*>;  // before, now

constexpr std::array<Names, 3> older_figures = {
    {{"cross_entropy", "ce"}, {"teacher_cross_entropy", "teacher_ce"}, {"agreement", "top1_agreement"}}};
constexpr std::array<Names, 6> older_load = {{{"mean_entropy", "load_entropy"},
                                              {"worst_entropy", "load_worst_entropy"},
                                              {"num_starved", "starved_experts"},
                                              {"num_experts", "experts"},
                                              {"worst_layer", "load_worst_layer"},
                                              {"starved_layers", "starved_layers"}}};

Json load_numbers(const ModelLoad& load) {
  return {{"load_entropy", load.mean_entropy},
          {"load_worst_entropy", load.worst_entropy},
          {"starved_experts", load.num_starved}};
}

}  // namespace

Json to_json(const PreferenceResult& preference) {
  return {{"preference_accuracy", preference.accuracy},
          {"preference_margin", preference.margin},
          {"chosen_reward", preference.chosen},
          {"rejected_reward", preference.rejected}};
}

Json to_json(const SpanResult& spans) {
  return {{"spans", spans.spans},
          {"span_kl", spans.kl},
          {"span_share", spans.share},
          {"span_bits_per_byte", spans.bits_per_byte},
          {"teacher_bits_per_byte", spans.teacher_bits_per_byte}};
}

Json to_json(const SortedResult& sorted) {
  return {{"uld_pairs", sorted.pairs}, {"uld", sorted.distance}, {"uld_share", sorted.share}};
}

namespace {

Json numbers_to_json(const Evaluation& e) {
  Json json = {{"tokens", e.tokens}};
  if (e.bytes) json["bytes"] = *e.bytes;
  if (e.tokens == 0) return json;
  if (!e.is_of_rewards()) json["ce"] = e.cross_entropy;
  if (!e.is_of_rewards() && std::isfinite(e.perplexity())) json["perplexity"] = e.perplexity();
  if (const auto bits = e.bits_per_byte()) json["bits_per_byte"] = *bits;
  if (e.document_cross_entropy) {
    if (const auto by_byte = e.byte_perplexity(); by_byte && std::isfinite(*by_byte))
      json["byte_perplexity"] = *by_byte;
    if (const double by_document = *e.document_perplexity(); std::isfinite(by_document))
      json["document_perplexity"] = by_document;
  }
  if (e.calibration_error) json["ece"] = *e.calibration_error;
  for (const auto& [name, value] : teacher_figures(e)) json[std::string(name)] = value;
  if (e.spans) json.update(to_json(*e.spans));
  if (e.sorted) json.update(to_json(*e.sorted));
  if (e.choice) json.update({{"choice_kl", e.choice->kl}, {"choice_ce", e.choice->cross_entropy}});
  if (e.preference) {
    json["preference_loss"] = e.preference->loss;
    json.update(to_json(*e.preference));
  }
  return json;
}

std::optional<double> number_of(const Json& json, const char* name) {
  return json.contains(name) ? std::optional(json.at(name).get<double>()) : std::nullopt;
}

/// Puts the members of `from` that have an older name into `to` under their present one.
template <std::size_t n>
void rename(const Json& from, Json& to, const std::array<Names, n>& names) {
  for (const auto& [before, now] : names)
    if (from.contains(before)) to[now] = from[before];
}

}  // namespace

Json to_json(const Measurement& measurement) {
  Json line = Json::object();
  if (measurement.held_out.tokens > 0) {
    Json numbers = numbers_to_json(measurement.held_out);
    if (measurement.held_out.load) numbers.update(load_numbers(*measurement.held_out.load));
    for (const auto& [name, value] : numbers.items()) line["eval_" + name] = value;
  }
  if (!measurement.sets.empty()) line["eval_sets"] = sets_to_json(measurement.sets);
  return line;
}

Json load_to_json(const ModelLoad& load) {
  Json json = load_numbers(load);
  json["experts"] = load.num_experts;
  json["load_worst_layer"] = load.worst_layer;
  json["starved_layers"] = load.starved_layers;
  return json;
}

Json evaluation_to_json(const Evaluation& e) {
  Json json = numbers_to_json(e);
  if (e.load) json.update(load_to_json(*e.load));
  return json;
}

Evaluation evaluation_from_json(const Json& json) {
  Evaluation e;
  e.tokens = json.at("tokens").get<std::int64_t>();
  if (json.contains("bytes")) e.bytes = json.at("bytes").get<std::int64_t>();
  if (e.tokens == 0) return e;
  if (json.contains("ce") || !json.contains("preference_loss")) e.cross_entropy = json.at("ce").get<double>();
  if (json.contains("document_perplexity"))
    e.document_cross_entropy = std::log(json.at("document_perplexity").get<double>());
  e.calibration_error = number_of(json, "ece");
  e.teacher_cross_entropy = json.value("teacher_ce", 0.0);
  if (e.has_teacher()) {
    for (const Known known : all_known)
      if (json.contains(names_of(known).kl)) e.known = known;
    const TeacherFigureNames names = names_of(e.known);
    const auto figure = [&](const char* name) { return name == nullptr ? std::nullopt : number_of(json, name); };
    e.kl = figure(names.kl).value_or(0);
    e.kl_median = figure(names.kl_median);
    e.kl_p90 = figure(names.kl_p90);
    e.kl_p99 = figure(names.kl_p99);
    e.teacher_calibration_error = number_of(json, "teacher_ece");
    e.agreement = json.value("top1_agreement", 0.0);
    e.sum_min = figure(names.sum_min).value_or(0);
  }
  if (json.contains("span_kl")) {
    SpanResult& spans = e.spans.emplace();
    spans.spans = json.at("spans").get<std::int64_t>();
    spans.kl = json.at("span_kl").get<double>();
    spans.share = json.at("span_share").get<double>();
    spans.bits_per_byte = json.at("span_bits_per_byte").get<double>();
    spans.teacher_bits_per_byte = json.at("teacher_bits_per_byte").get<double>();
  }
  if (json.contains("uld")) {
    SortedResult& sorted = e.sorted.emplace();
    sorted.pairs = json.at("uld_pairs").get<std::int64_t>();
    sorted.distance = json.at("uld").get<double>();
    sorted.share = json.at("uld_share").get<double>();
  }
  if (json.contains("choice_kl"))
    e.choice =
        ChoiceResult{.kl = json.at("choice_kl").get<double>(), .cross_entropy = json.at("choice_ce").get<double>()};
  if (json.contains("preference_loss")) {
    PreferenceResult& preference = e.preference.emplace();
    preference.loss = json.at("preference_loss").get<double>();
    preference.accuracy = json.at("preference_accuracy").get<double>();
    preference.margin = json.at("preference_margin").get<double>();
    preference.chosen = json.at("chosen_reward").get<double>();
    preference.rejected = json.at("rejected_reward").get<double>();
  }
  if (json.contains("load_entropy"))
    e.load = ModelLoad{.mean_entropy = json.at("load_entropy").get<double>(),
                       .worst_entropy = json.at("load_worst_entropy").get<double>(),
                       .worst_layer = json.at("load_worst_layer").get<std::int64_t>(),
                       .num_experts = json.at("experts").get<std::int64_t>(),
                       .num_starved = json.at("starved_experts").get<std::int64_t>(),
                       .starved_layers = json.at("starved_layers").get<std::vector<std::int64_t>>()};
  return e;
}

Json sets_to_json(const NamedEvaluations& sets) {
  Json json = Json::object();
  for (const auto& [name, evaluation] : sets) json[name] = evaluation_to_json(evaluation);
  return json;
}

NamedEvaluations sets_from_json(const Json& json) {
  NamedEvaluations sets;
  for (const auto& [name, set] : json.items()) sets.emplace_back(name, evaluation_from_json(set));
  return sets;
}

Json with_present_names(Json record) {
  for (const char* member : {"student", "unigram"}) {
    if (!record.is_object() || !record.contains(member) || !record[member].is_object()) continue;
    Json& figures = record[member];
    const Json before = figures;
    rename(before, figures, older_figures);
    for (const auto& [older, _] : older_figures) figures.erase(older);
    if (!before.contains("load") || !before["load"].is_object()) continue;
    rename(before["load"], figures, older_load);
    figures.erase("load");
  }
  return record;
}

}  // namespace limbeck::launch
