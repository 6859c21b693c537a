#include "launch/run/evaluation_json.h"

#include <gmock/gmock.h>

#include <array>

#include "launch/report/distill_report.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::ordered_json;

Evaluation whole() {
  return {.tokens = 8,
          .cross_entropy = 1.5,
          .teacher_cross_entropy = 1.25,
          .kl = 0.5,
          .kl_median = 0.25,
          .kl_p90 = 1.5,
          .kl_p99 = 3,
          .agreement = 0.75,
          .sum_min = 0.625,
          .bytes = 12,
          .load = ModelLoad{.mean_entropy = 0.9,
                            .worst_entropy = 0.8,
                            .worst_layer = 3,
                            .num_experts = 16,
                            .num_starved = 2,
                            .starved_layers = {1, 3}},
          .calibration_error = 0.0625,
          .teacher_calibration_error = 0.03125};
}

std::vector<std::string> names_of(const Json& json) {
  std::vector<std::string> names;
  for (const auto& [name, _] : json.items()) names.push_back(name);
  return names;
}

TEST(EvaluationJson, OfARewardHeadIsOfPairsAlone) {
  constexpr std::array<double, 6> sums = {4, 8, 2, 12, 20, 8};
  Evaluation rewards{.tokens = 9};
  rewards.preference.emplace(sums);
  const Json json = evaluation_to_json(rewards);
  EXPECT_THAT(names_of(json), ElementsAre("tokens", "preference_loss", "preference_accuracy", "preference_margin",
                                          "chosen_reward", "rejected_reward"));
  EXPECT_EQ(json["chosen_reward"], 5);
  const Evaluation back = evaluation_from_json(Json::parse(json.dump()));
  EXPECT_TRUE(back.is_of_rewards());
  EXPECT_EQ(evaluation_to_json(back), json);
  EXPECT_THROW(evaluation_from_json(Json{{"tokens", 9}}), Json::exception);
}

TEST(EvaluationJson, HasEveryFigureAndComesBack) {
  const Json json = evaluation_to_json(whole());
  EXPECT_THAT(names_of(json),
              ElementsAre("tokens", "bytes", "ce", "perplexity", "bits_per_byte", "ece", "teacher_ce", "kl",
                          "kl_median", "kl_p90", "kl_p99", "top1_agreement", "sum_min", "teacher_ece", "load_entropy",
                          "load_worst_entropy", "starved_experts", "experts", "load_worst_layer", "starved_layers"));
  EXPECT_NEAR(json["perplexity"].get<double>(), 4.4816890703380645, 1e-15);     // e^1.5
  EXPECT_NEAR(json["bits_per_byte"].get<double>(), 1.4426950408889634, 1e-15);  // 12 nats of 12 bytes
  EXPECT_EQ(json["starved_layers"], Json({1, 3}));
  EXPECT_EQ(evaluation_to_json(evaluation_from_json(Json::parse(json.dump()))), json);
}

TEST(EvaluationJson, OfExpertsThatChooseComesBack) {
  Evaluation e = whole();
  e.choice = ChoiceResult{.kl = 0.25, .cross_entropy = 1.375};
  const Json json = evaluation_to_json(e);
  EXPECT_EQ(json["choice_kl"], 0.25);
  EXPECT_EQ(json["choice_ce"], 1.375);
  EXPECT_EQ(evaluation_to_json(evaluation_from_json(Json::parse(json.dump()))), json);
}

// Nobody takes a bound or an estimate for the figure.
TEST(EvaluationJson, OfAPartOfTheTeacherFiguresHaveOtherNames) {
  Evaluation e = whole();
  e.load.reset();
  e.known = Known::Kept;
  const Json kept = evaluation_to_json(e);
  EXPECT_THAT(names_of(kept),
              ElementsAre("tokens", "bytes", "ce", "perplexity", "bits_per_byte", "ece", "teacher_ce", "kl_lower_bound",
                          "kl_lower_bound_median", "kl_lower_bound_p90", "kl_lower_bound_p99", "top1_agreement",
                          "sum_min_upper_bound", "teacher_ece"));
  EXPECT_EQ(kept["kl_lower_bound"], 0.5);
  EXPECT_EQ(kept["sum_min_upper_bound"], 0.625);
  EXPECT_EQ(kl_text(e, e.kl) + sum_min_text(e), ">=0.5000<=0.6250");
  e.known = Known::Drawn;
  e.teacher_calibration_error.reset();
  const Json drawn = evaluation_to_json(e);
  EXPECT_THAT(names_of(drawn), ElementsAre("tokens", "bytes", "ce", "perplexity", "bits_per_byte", "ece", "teacher_ce",
                                           "kl_estimate", "top1_agreement"));
  EXPECT_EQ(kl_text(e, e.kl) + sum_min_text(e), "~0.5000-");
  for (const Json& json : {kept, drawn})
    EXPECT_EQ(evaluation_to_json(evaluation_from_json(Json::parse(json.dump()))), json);
}

TEST(EvaluationJson, WhatWasNotMeasuredIsAbsent) {
  EXPECT_THAT(names_of(evaluation_to_json({.tokens = 8, .cross_entropy = 1.5})),
              ElementsAre("tokens", "ce", "perplexity"));
  EXPECT_THAT(names_of(evaluation_to_json({.tokens = 8, .cross_entropy = 1000})), ElementsAre("tokens", "ce"));
  EXPECT_THAT(names_of(evaluation_to_json({.bytes = 3})), ElementsAre("tokens", "bytes"));
  Evaluation of_a_set = whole();
  of_a_set.kl_median = of_a_set.kl_p90 = of_a_set.kl_p99 = std::nullopt;
  of_a_set.load.reset();
  const Json json = sets_to_json({{"web", of_a_set}});
  EXPECT_THAT(names_of(json["web"]), ElementsAre("tokens", "bytes", "ce", "perplexity", "bits_per_byte", "ece",
                                                 "teacher_ce", "kl", "top1_agreement", "sum_min", "teacher_ece"));
  Evaluation of_a_text = whole();
  of_a_text.document_cross_entropy = 0.5;
  const Json text = evaluation_to_json(of_a_text);
  EXPECT_NEAR(text["byte_perplexity"].get<double>(), 2.718281828459045, 1e-14);       // 12 nats of 12 bytes
  EXPECT_NEAR(text["document_perplexity"].get<double>(), 1.6487212707001282, 1e-14);  // e^0.5
  EXPECT_EQ(evaluation_to_json(evaluation_from_json(Json::parse(text.dump()))), text);
  EXPECT_EQ(sets_to_json(sets_from_json(json)), json);
  EXPECT_TRUE(to_json(Measurement{}).empty());
}

TEST(EvaluationJson, SpansComeBack) {
  Evaluation bridged{.tokens = 8, .cross_entropy = 1000};
  SpanResult& spans = bridged.spans.emplace();
  spans.spans = 6;
  spans.kl = 0.5;
  spans.share = 0.75;
  spans.bits_per_byte = 2;
  spans.teacher_bits_per_byte = 1.5;
  const Json json = evaluation_to_json(bridged);
  EXPECT_EQ(json, Json::parse(R"({"tokens": 8, "ce": 1000.0, "spans": 6, "span_kl": 0.5, "span_share": 0.75,
                                  "span_bits_per_byte": 2.0, "teacher_bits_per_byte": 1.5})"));
  EXPECT_EQ(evaluation_to_json(evaluation_from_json(json)), json);
}

TEST(EvaluationJson, SortedDistributionsComeBack) {
  Evaluation bridged{.tokens = 8, .cross_entropy = 1000};
  SortedResult& sorted = bridged.sorted.emplace();
  sorted.pairs = 6;
  sorted.distance = 0.5;
  sorted.share = 0.75;
  const Json json = evaluation_to_json(bridged);
  EXPECT_EQ(json, Json::parse(R"({"tokens": 8, "ce": 1000.0, "uld_pairs": 6, "uld": 0.5, "uld_share": 0.75})"));
  EXPECT_EQ(evaluation_to_json(evaluation_from_json(json)), json);
}

TEST(EvaluationJson, LinesOfMetricsHaveTheSameNames) {
  const Json line = to_json({.held_out = whole(), .sets = {{"web", whole()}}});
  const Json json = evaluation_to_json(whole());
  for (const char* name :
       {"tokens", "bytes", "ce", "perplexity", "bits_per_byte", "ece", "teacher_ce", "kl", "kl_median", "kl_p90",
        "kl_p99", "top1_agreement", "sum_min", "teacher_ece", "load_entropy", "load_worst_entropy", "starved_experts"})
    EXPECT_EQ(line.value(std::string("eval_") + name, Json()), json[name]) << name;
  EXPECT_EQ(line["eval_sets"]["web"], json);
  EXPECT_EQ(line.size(), 18U);
}

constexpr const char* older =
    R"({"step": 20, "student": {"tokens": 9, "cross_entropy": 2.5, "load": {"mean_entropy": 0.9,
  "worst_entropy": 0.75, "worst_layer": 2, "num_experts": 8, "num_starved": 3, "starved_layers": [1, 2],
  "even_share": 4.5}, "teacher_cross_entropy": 2, "kl": 0.75, "kl_median": 0.5, "kl_p99": 3, "agreement": 0.5,
  "sum_min": 0.625}, "unigram": {"tokens": 9, "cross_entropy": 7}, "sets": {"wiki": {"tokens": 5, "ce": 1.5}}})";

TEST(EvaluationJson, RecordsOfTheFirstVersionsAreRead) {
  const Json now = Json::parse(R"({"step": 20, "student": {"tokens": 9, "ce": 2.5, "teacher_ce": 2, "kl": 0.75,
    "kl_median": 0.5, "kl_p99": 3, "top1_agreement": 0.5, "sum_min": 0.625, "load_entropy": 0.9,
    "load_worst_entropy": 0.75, "load_worst_layer": 2, "experts": 8, "starved_experts": 3, "starved_layers": [1, 2]},
    "unigram": {"tokens": 9, "ce": 7}, "sets": {"wiki": {"tokens": 5, "ce": 1.5}}})");
  const auto in_any_order = [](const Json& json) { return nlohmann::json(json); };
  EXPECT_EQ(in_any_order(with_present_names(Json::parse(older))), in_any_order(now));
  EXPECT_EQ(with_present_names(now), now);
  for (const char* other : {"[]", "3", R"({"student": 4})", R"({"student": {"load": 4}})"})
    EXPECT_EQ(with_present_names(Json::parse(other)), Json::parse(other));

  const DistillStart start = start_from_text(older, "here");  // as a run that goes on reads it
  EXPECT_EQ(start.student.cross_entropy, 2.5);
  EXPECT_EQ(start.student.agreement, 0.5);
  EXPECT_EQ(start.student.load.value().num_starved, 3);
  EXPECT_EQ(start.unigram.cross_entropy, 7);
  EXPECT_EQ(start.sets.at(0).second.cross_entropy, 1.5);
}

}  // namespace
}  // namespace limbeck::launch
