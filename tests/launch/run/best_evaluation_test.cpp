#include "launch/run/best_evaluation.h"

#include <gmock/gmock.h>

#include <array>

#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

Measurement measured(double ce, double agreement = 0) {
  Measurement m;
  m.held_out = {.tokens = 10, .cross_entropy = ce};
  if (agreement > 0) m.held_out.teacher_cross_entropy = 1;
  m.held_out.agreement = agreement;
  m.sets.emplace_back("held_out/code", Evaluation{.tokens = 8, .cross_entropy = 2 * ce, .bytes = 16});
  m.sets.emplace_back("a.b", Evaluation{.tokens = 8, .cross_entropy = 3 * ce});
  return m;
}

TEST(FigureOf, IsFoundByNameWhereItWasMeasured) {
  EXPECT_EQ(figure_of(measured(2), "ce"), 2);
  EXPECT_DOUBLE_EQ(*figure_of(measured(2), "perplexity"), 7.38905609893065);
  EXPECT_EQ(figure_of(measured(2), "held_out/code.ce"), 4);
  EXPECT_DOUBLE_EQ(*figure_of(measured(2), "held_out/code.bits_per_byte"), 4 * 8 / (16 * 0.6931471805599453));
  EXPECT_EQ(figure_of(measured(2), "a.b.ce"), 6);
  EXPECT_EQ(figure_of(measured(2, 0.5), "top1_agreement"), 0.5);
  EXPECT_EQ(figure_of(measured(2), "kl"), std::nullopt);             // no teacher
  EXPECT_EQ(figure_of(measured(2), "bits_per_byte"), std::nullopt);  // no bytes
  EXPECT_EQ(figure_of(measured(2), "c.ce"), std::nullopt);
  Measurement of_a_part = measured(2, 0.5);
  of_a_part.held_out.known = Known::Kept;
  of_a_part.held_out.kl = 3;
  EXPECT_EQ(figure_of(of_a_part, "kl_lower_bound"), 3);
  for (const char* other : {"kl", "kl_estimate", "sum_min"}) EXPECT_EQ(figure_of(of_a_part, other), std::nullopt);
}

/// Of 4 pairs: loss 2, half of them right, margin 3.
TEST(FigureOf, PairsHaveTheirOwn) {
  constexpr std::array<double, 6> sums = {4, 8, 2, 12, 20, 8};
  Measurement of_pairs = measured(2, 0.5);
  of_pairs.held_out.preference.emplace(sums);
  EXPECT_EQ(figure_of(of_pairs, "preference_loss"), 2);
  EXPECT_EQ(figure_of(of_pairs, "preference_accuracy"), 0.5);
  EXPECT_EQ(figure_of(of_pairs, "preference_margin"), 3);
  EXPECT_EQ(figure_of(of_pairs, "ce"), 2);
  EXPECT_EQ(figure_of(of_pairs, "held_out/code.preference_loss"), std::nullopt);
  of_pairs.held_out.teacher_cross_entropy = 0;  // by a reward head, which predicts no tokens
  EXPECT_EQ(figure_of(of_pairs, "ce"), std::nullopt);
  EXPECT_EQ(figure_of(of_pairs, "preference_loss"), 2);
  std::optional<BestEvaluation> best;
  EXPECT_TRUE(offer(best, "preference_accuracy", 1, of_pairs));
  of_pairs.held_out.preference->accuracy = 0.25;
  EXPECT_FALSE(offer(best, "preference_accuracy", 2, of_pairs));
  EXPECT_TRUE(offer(best, "preference_loss", 3, of_pairs));
  of_pairs.held_out.preference->loss = 3;
  EXPECT_FALSE(offer(best, "preference_loss", 4, of_pairs));
}

TEST(BestEvaluation, FallsOrRisesAndCountsWhatIsNoBetter) {
  std::optional<BestEvaluation> best;
  EXPECT_TRUE(offer(best, "ce", 10, measured(3)));
  EXPECT_FALSE(offer(best, "ce", 20, measured(3)));
  EXPECT_FALSE(offer(best, "ce", 30, measured(4)));
  EXPECT_EQ(best, (BestEvaluation{"ce", 10, 3, 2}));
  EXPECT_FALSE(offer(best, "ce", 35, Measurement{}));                   // counts for nothing
  EXPECT_FALSE(offer(best, "ce", 36, measured(4), /*regular=*/false));  // nor does this
  EXPECT_EQ(best->without_gain, 2);
  EXPECT_TRUE(offer(best, "ce", 40, measured(2.5)));
  EXPECT_EQ(best, (BestEvaluation{"ce", 40, 2.5, 0}));
  EXPECT_TRUE(offer(best, "ce", 45, measured(2), /*regular=*/false));

  best.reset();
  EXPECT_TRUE(offer(best, "top1_agreement", 1, measured(3, 0.25)));
  EXPECT_FALSE(offer(best, "top1_agreement", 2, measured(3, 0.2)));
  EXPECT_TRUE(offer(best, "top1_agreement", 3, measured(3, 0.5)));
}

TEST(BestEvaluation, ComesBackFromJsonToTheBit) {
  const BestEvaluation best{"web.ce", 12, 0.1 + 0.2, 3};
  EXPECT_EQ(best_from_json(nlohmann::json::parse(to_json(best).dump()), "here"), best);
  const auto error = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json json = to_json(best);
    json[field] = value;
    return error_of([&] { best_from_json(json, "here"); });
  };
  EXPECT_THAT(error("step", -1), HasSubstr("here: step is -1, expected a whole number"));
  EXPECT_THAT(error("value", "x"), HasSubstr("here: value is \"x\", expected a number"));
  EXPECT_THAT(error("figure", 3), HasSubstr("here: figure is 3, expected a text"));
}

}  // namespace
}  // namespace limbeck::launch
