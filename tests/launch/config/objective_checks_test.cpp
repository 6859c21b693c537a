// What the parts of an objective go with.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <string>
#include <utility>

#include "core/error.h"
#include "launch/config/config.h"

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

void refuses(const std::string& text, const std::string& expected) {
  EXPECT_THAT([&] { parse_config(text, "c"); }, ::testing::ThrowsMessage<core::UsageError>(HasSubstr(expected)))
      << text;
}

TEST(ConfigSampledText, IsOfHalfTheStepsWhereNothingElseIsSaid) {
  EXPECT_FALSE(parse_config("objective {}", "c").objective.sampled_text);
  const RunConfig config = parse_config("objective { sampled_text { by: TEACHER } }", "c");
  EXPECT_EQ(config.objective.sampled_text.value().fraction, 0.5);
  EXPECT_EQ(parse_config(to_textproto(config), "c"), config);
  for (const char* fraction : {"0", "-0.1", "1.5"})
    refuses(fmt::format("objective {{\n sampled_text {{ fraction: {} }} }}", fraction),
            fmt::format("c:2:17: objective.sampled_text.fraction is {}, expected above 0 to 1", fraction));
}

TEST(ConfigSampledText, ARecordWithoutAnyIsOfARunThatSampledNothing) {
  const std::string section = "objective { sampled_text { by: STUDENT fraction: 0 prompt_tokens: 64 } } ";
  EXPECT_FALSE(parse_config(section + "output { started_in: '/there' }", "c").objective.sampled_text);
}

TEST(ConfigObjective, WhatIsGivenIsOfUse) {
  refuses("objective {\n mix: 0.3 }", "c:2:2: objective.mix is given, expected none, or a divergence that mixes");
  refuses("objective { divergence: TOTAL_VARIATION mix: 1 }", "objective.mix is given");
  refuses("objective { sampled_text { divergence: REVERSE_KL\n mix: 0.3 } }",
          "c:2:2: objective.sampled_text.mix is given");
  refuses("objective { smoothing: 0.2 }",
          "objective.smoothing is given, expected none, or control: SMOOTHED_LABELS too");
  refuses("objective { control: UNTRAINED smoothing: 0.2 }", "objective.smoothing is given");
  for (const auto& [section, fields] : {std::pair("hidden_states", "projector: true"),
                                        {"hidden_states", "layers: [1, 2]"},
                                        {"routers", "by_load: false"},
                                        {"attention", "distance: SQUARED_ERROR"},
                                        {"feed_forward", "layers: 1"}}) {
    const std::string path = fmt::format("objective.{}", section);
    refuses(fmt::format("objective {{ {} {{ {} }} }}", section, fields),
            path + " is given, expected none of it, or its weight too, above 0");
    EXPECT_NO_THROW(parse_config(fmt::format("objective {{ {} {{ weight: 0.1 {} }} }}", section, fields), "c"));
  }
  for (const char* used : {"mix: 0", "divergence: SKEW_KL mix: 0.3", "sampled_text { mix: 0.3 }",
                           "control: SMOOTHED_LABELS smoothing: 0.2"})
    EXPECT_NO_THROW(parse_config(fmt::format("objective {{ {} }}", used), "c")) << used;
  // What a run keeps of a config that leaves all of it out loads again.
  EXPECT_NO_THROW(parse_config(to_textproto(parse_config("objective {}", "c")), "c"));
}

/// As a run wrote it before a mix could be left out: 0 was none, and what changes nothing was taken.
TEST(ConfigObjective, AnOlderRunsRecordMeansWhatItMeant) {
  const std::string older =
      "teacher { source: 't' } model { source: 'm' } data { tokenizer: 'teacher' text: 'a' } output { started_in: '/a' "
      "} "
      "objective { divergence: JENSEN_SHANNON mix: 0 smoothing: 0.2 sampled_text { fraction: 0.5 mix: 0 } }";
  const RunConfig before = parse_config(older, "c");
  EXPECT_FALSE(before.objective.mix);
  EXPECT_FALSE(before.objective.sampled_text.value().mix);
  const RunConfig now = parse_config(older + " precision { float32_teacher: false }", "c");
  EXPECT_EQ(now.objective.mix, 0);
  EXPECT_EQ(now.objective.sampled_text.value().mix, 0);
  // Of a run whose teacher is taken away, as for its evaluation, the objective's fields stay and say nothing.
  EXPECT_NO_THROW(check_for_train(parse_config(
      "model {} data { tokenizer: 'bytes' text: 'a' } output { started_in: '/a' } objective { temperature: 2 }", "c")));
}

TEST(ConfigObjective, WithoutATeacherItsFieldsAreRefused) {
  const std::string train = "model {} data { tokenizer: 'bytes' text: 'a' } objective { ";
  for (const auto& [name, value] : {std::pair("cross_entropy_weight", "0"),
                                    {"temperature", "2"},
                                    {"sampled_text", "{}"},
                                    {"divergence", "SKEW_KL"},
                                    {"control", "UNTRAINED"},
                                    {"final_temperature", "2"}}) {
    const std::string config = fmt::format("{}{}: {} }}", train, name, value);
    EXPECT_THAT([&config] { check_for_train(parse_config(config, "c")); },
                ::testing::ThrowsMessage<core::UsageError>(
                    fmt::format("train: objective.{} is given, expected none without a teacher", name)));
  }
  EXPECT_NO_THROW(check_for_train(parse_config(train + "predict_weight: 0.1 }", "c")));
}

TEST(ConfigControls, StandAlone) {
  const std::string shuffled = "objective { control: SHUFFLED_POSITIONS ";
  EXPECT_NO_THROW(parse_config(shuffled + "}", "c"));
  refuses(shuffled + "hidden_states { weight: 1 } }", "objective.control is given with objective.hidden_states");
  refuses(shuffled + "attention { weight: 1 } }", "objective.control is given with objective.attention");
  refuses(shuffled + "feed_forward { weight: 1 } }", "objective.control is given with objective.feed_forward");
  refuses(shuffled + "routers { weight: 1 } }", "objective.control is given with objective.routers");
  refuses(shuffled + "sampled_text { fraction: 0.5 } }", "objective.control is given with objective.sampled_text");
  refuses("objective { control: UNTRAINED } precision { mapped_teacher: true }",
          "objective.control is UNTRAINED, expected another with precision.mapped_teacher");
}

TEST(ConfigPreference, StandsAlone) {
  const std::string pairs = "data { text: 'a' format: PAIRS } objective { preference {} ";
  EXPECT_NO_THROW(parse_config(pairs + "}", "c"));
  refuses("data { format: PAIRS }", "data.format is PAIRS, expected objective.preference or objective.reward too");
  refuses("data { sources { text: 'a' format: PAIRS } }", "data.sources[0].format is PAIRS");
  refuses("data { text: 'a' } objective { preference {} }", "data.format is another, expected PAIRS");
  refuses(pairs + "hidden_states { weight: 1 } }", "objective.hidden_states.weight is given with objective.preference");
  refuses(pairs + "sampled_text { fraction: 1 } }", "objective.sampled_text is given");
  refuses(pairs + "} train { cuda_graph: true }", "train.cuda_graph is given");
  refuses(pairs + "} teacher { source: 't' cache: 'c' }", "teacher.cache is given");
  refuses(pairs + "} evaluation { set { name: 'a' text: 'a' format: PAIRS } }", "evaluation.set[0].format is PAIRS");
  refuses("data { text: 'a' format: PAIRS } objective { preference { beta: 0 } }", "expected a number above 0");
}

}  // namespace
}  // namespace limbeck::launch
