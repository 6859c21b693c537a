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
              ::testing::AllOf(::testing::Contains(R"(data.text: ["text","more"] ["text"])"),
                               ::testing::Contains(R"(optimizer.groups[0].pattern: "norm.weight" null)"),
                               ::testing::Contains("optimizer.groups[0].frozen: true null"),
                               ::testing::Contains(R"(teacher.source: null "t.gguf")"),
                               ::testing::Each(::testing::Not(::testing::HasSubstr("pattern:  ")))));
}

RunConfig mixture(const std::string& sources) {
  return parse_config("model { width: 32 } output { dir: \"d\" } data { " + sources + " }", "test");
}

TEST(ConfigDifferences, OfTheEntriesOfAListFieldByField) {
  const std::string web = R"(sources { text: "w" name: "web" weight: 2 } )",
                    code = R"(sources { text: "c" name: "code" } )";
  EXPECT_THAT(lines({mixture(web + code), mixture(web + R"(sources { text: "c" name: "code" weight: 0.5 })")}),
              ::testing::ElementsAre("data.sources[code].weight: 1 0.5"));
  // An order that is another is a difference of the list alone; so is an entry more, with what it sets.
  EXPECT_THAT(lines({mixture(web + code), mixture(code + web)}),
              ::testing::ElementsAre(R"(data.sources: ["web","code"] ["code","web"])"));
  EXPECT_THAT(
      lines({mixture(web + code), mixture(web)}),
      ::testing::AllOf(::testing::Contains(R"(data.sources[code].text: ["c"] null)"),
                       ::testing::Contains(R"(data.sources: ["web","code"] ["web"])"),
                       ::testing::Not(::testing::Contains(::testing::StartsWith("data.sources[web]"))),
                       ::testing::Not(::testing::Contains(::testing::StartsWith("data.sources[code].tokens")))));
  // Without names, by place.
  EXPECT_THAT(lines({mixture(R"(sources { text: "a" } sources { text: "b" })"),
                     mixture(R"(sources { text: "a" } sources { text: "b" weight: 3 })")}),
              ::testing::ElementsAre("data.sources[1].weight: 1 3"));
}

TEST(ConfigDifferences, LieInTheirSections) {
  const auto lies_in = [](const char* field, const char* section) {
    return ConfigDifference{field, {}}.lies_in(section);
  };
  EXPECT_TRUE(lies_in("data.sources", "data.sources"));
  EXPECT_TRUE(lies_in("data.sources[web].weight", "data.sources"));
  EXPECT_TRUE(lies_in("data.sources[web].weight", "data"));
  EXPECT_FALSE(lies_in("data.text_more", "data.text"));
  EXPECT_FALSE(lies_in("data", "data.text"));
}

}  // namespace
}  // namespace limbeck::launch
