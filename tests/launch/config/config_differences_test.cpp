#include "launch/config/config_differences.h"

#include <gmock/gmock.h>

namespace limbeck::launch {
namespace {

RunConfig config(const std::string& text, const std::string& data = "") {
  return parse_config(
      fmt::format("model {{ width: 32 }} data {{ text: \"text\" {} }} output {{ dir: \"d\" }} {}", data, text), "test");
}

std::vector<std::string> lines(const std::vector<RunConfig>& configs) {
  std::vector<std::string> result;
  for (const ConfigDifference& d : config_differences(configs)) {
    result.push_back(d.field + ":");
    for (const auto& value : d.values) result.back() += " " + value.dump();
  }
  return result;
}

TEST(ConfigDifferences, AreTheFieldsThatAreNotTheSameInAll) {
  EXPECT_TRUE(config_differences({}).empty());
  EXPECT_TRUE(config_differences({config("")}).empty());
  EXPECT_TRUE(config_differences({config(""), config("")}).empty());
  EXPECT_THAT(lines({config("optimizer { rate: 0.5 } train { steps: 7 }"), config("train { steps: 7 recompute: true }"),
                     config("optimizer { rate: 0.5 } train { steps: 7 } schedule { kind: LINEAR }")}),
              ::testing::ElementsAre("optimizer.rate: 0.5 0.001 0.5", R"(schedule.kind: "COSINE" "COSINE" "LINEAR")",
                                     "train.recompute: false true false"));
}

TEST(ConfigDifferences, OfListsAndSections) {
  EXPECT_THAT(lines({config("optimizer { groups { pattern: \"norm.weight\" frozen: true } }", "text: \"more\""),
                     config("teacher { source: \"t.gguf\" }")}),
              ::testing::ElementsAre(
                  R"(data.text: ["text","more"] ["text"])",
                  ::testing::AllOf(::testing::StartsWith("optimizer.groups: [\""),
                                   ::testing::HasSubstr(R"(pattern: \"norm.weight\")"), ::testing::EndsWith("\"] []")),
                  R"(teacher.source: null "t.gguf")"));
}

}  // namespace
}  // namespace limbeck::launch
