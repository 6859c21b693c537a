#include "launch/report/verification_table.h"

#include <gmock/gmock.h>

#include <limits>

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Verification example() {
  Verification found{.precision = core::DType::F32, .tolerance = 1e-5, .num_steps = 3, .num_tokens = 1536};
  found.layouts.push_back({"dp2", 2, {.loss = 1e-7, .gradient = {2e-6, "norm.weight", 3}, .hidden = {0, 1e-7}}});
  return found;
}

TEST(VerificationTable, SaysThatAllIsTheSame) {
  const Verification found = example();
  EXPECT_TRUE(found.passes());
  const std::string text = verification_text(found);
  for (const char* part : {"3 steps of 1536 tokens in float32", "1.0e-07", "2.0e-06", "norm.weight", "ok",
                           "1 of 1 layouts give the numbers of one rank."})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(text, Not(HasSubstr("FAIL")));
}

TEST(VerificationTable, SaysWhereALayoutBeginsToDiffer) {
  const auto place = [](const LayoutDifferences& differences) {
    Verification found = example();
    found.layouts.push_back({"tp4", 4, differences});
    EXPECT_FALSE(found.passes());
    const std::string text = verification_text(found);
    EXPECT_THAT(text, HasSubstr("1 of 2 layouts give"));
    EXPECT_THAT(text, HasSubstr("FAIL"));
    return text;
  };
  EXPECT_THAT(place({.loss = 0.1, .hidden = {0, 0.2}}), HasSubstr("tp4: what layer 1 gives in the first step"));
  EXPECT_THAT(place({.loss = 0.1, .first_loss = 0.1, .hidden = {0, 0}}), HasSubstr("the loss of it is not"));
  EXPECT_THAT(
      place({.gradient = {0.2, "norm.weight", 2}, .first_gradient = {0.1, "embed.weight", 1}, .hidden = {0, 0}}),
      HasSubstr("the gradient of embed.weight is not"));
  EXPECT_THAT(place({.loss = 0.1, .gradient = {0.1, "embed.weight", 2}, .hidden = {0, 0}}),
              HasSubstr("what the optimizer makes"));
  EXPECT_THAT(place({.gradient_norm = 0.1, .hidden = {0, 0}}), HasSubstr("the gradient's norm is not"));
  EXPECT_THAT(place({.weight = {0.1, "head.weight", 3}, .hidden = {0, 0}}), HasSubstr("what the optimizer makes"));
  EXPECT_THAT(place({.weight = {0.1, "head.weight", 0}, .hidden = {0.1, 0.1}}),
              HasSubstr("head.weight begins with other weights; what layer 0"));
  EXPECT_THAT(place({.gradient = {std::numeric_limits<double>::infinity(), "a", 1}}), HasSubstr("not finite"));
  EXPECT_THAT(place({.error = "rank 1 has not come"}), HasSubstr("tp4: rank 1 has not come"));
}

TEST(VerificationTable, ListsFlips) {
  Verification found = example();
  found.layouts[0].differences.num_flips = 7;
  for (std::int64_t token = 0; token < 7; ++token)
    found.layouts[0].differences.flips.push_back({1, 2, token, "0,3", "0,1"});
  const std::string text = verification_text(found);
  EXPECT_THAT(text, HasSubstr("dp2: 7 tokens would have gone to other experts"));
  EXPECT_THAT(text, HasSubstr("step 1, layer 2, token 4: 0,1 in place of 0,3"));
  EXPECT_THAT(text, Not(HasSubstr("token 5:")));
  EXPECT_THAT(text, HasSubstr("and more (--json)"));
  EXPECT_EQ(verification_json(found)["layouts"][0]["flipped"].size(), 7U);
}

TEST(VerificationTable, JsonHasAllOfIt) {
  Verification found = example();
  found.layouts.push_back({"ep2", 2, {.gradient = {std::numeric_limits<double>::infinity(), "a", 1}}});
  found.layouts.push_back({"tp2", 2, {.error = "why"}});
  const auto json = verification_json(found);
  EXPECT_EQ(json["precision"], "float32");
  EXPECT_EQ(json["passes"], false);
  EXPECT_EQ(json["layouts"][0]["gradient"]["parameter"], "norm.weight");
  EXPECT_EQ(json["layouts"][0]["hidden"].size(), 2U);
  EXPECT_TRUE(json["layouts"][1]["gradient"]["difference"].is_null());
  EXPECT_EQ(json["layouts"][2]["error"], "why");
  EXPECT_FALSE(json["layouts"][2].contains("loss"));
}

}  // namespace
}  // namespace limbeck::launch
