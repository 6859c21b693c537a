#include "launch/run/checkpointing.h"

#include <gmock/gmock.h>

#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* config_text = R"(
  teacher { source: "runs/teacher/checkpoints/step_20" }
  data { text: "a" sequence_length: 48 held_out_fraction: 0.2 seed: 3 }
  batch { sequences_per_step: 4 }
  train { steps: 20 }
)";

std::vector<std::string> go_on(const std::vector<std::string>& sets, const std::string& text = "00000000000000aa",
                               const std::string& teacher = "00000000000000dd") {
  const TrainerState was{.step = 4,
                         .next_sample = 16,
                         .tokens = 768,
                         .run_config = to_textproto(parse_config(config_text, "x")),
                         .text = "00000000000000aa",
                         .teacher = "00000000000000dd"};
  return check_continues(was, "step_4", parse_config(config_text, "x", sets), text, teacher);
}

TEST(TrainerState, ComesBackFromJson) {
  const TrainerState state{.step = 4,
                           .next_sample = 16,
                           .tokens = 768,
                           .run_config = "train {}",
                           .text = "aa",
                           .teacher = "dd",
                           .best = BestEvaluation{"web.ce", 3, 0.1 + 0.2, 1},
                           .replicated = {{1, 3}, {}, {0}},
                           .expert_order = {{2, 0, 1}, {}},
                           .expert_counts = {{3, 0.1 + 0.2, 0}, {1, 2, 3}},
                           .said = {{6, {{{7, 0, 255}, -1}, {{}, 256}}}, {9, {{{1}, 2}}}}};
  const TrainerState back = trainer_state_from_json(nlohmann::json::parse(to_json(state).dump()), "here");
  EXPECT_EQ(back.step, 4);
  EXPECT_EQ(back.next_sample, 16);
  EXPECT_EQ(back.tokens, 768);
  EXPECT_EQ(back.run_config, "train {}");
  EXPECT_EQ(back.text, "aa");
  EXPECT_EQ(back.teacher, "dd");
  EXPECT_EQ(back.best, state.best);
  EXPECT_EQ(back.replicated, state.replicated);
  EXPECT_EQ(back.expert_order, state.expert_order);
  EXPECT_EQ(back.expert_counts, state.expert_counts);
  EXPECT_EQ(back.said, state.said);
  EXPECT_EQ(trainer_state_from_json(to_json(TrainerState{.step = 4}), "here").best, std::nullopt);
}

TEST(TrainerState, OneWithoutAFingerprintIsRead) {
  nlohmann::json json = to_json(TrainerState{.step = 4});
  json.erase("text");
  json.erase("teacher");
  EXPECT_EQ(trainer_state_from_json(json, "here").text, "");
  EXPECT_EQ(trainer_state_from_json(json, "here").teacher, "");
  json.erase("step");
  EXPECT_THAT(error_of([&] { trainer_state_from_json(json, "here"); }), HasSubstr("here: "));
  EXPECT_THAT(error_of([&] { trainer_state_from_json("x", "here"); }), HasSubstr("here: "));
}

TEST(TrainerState, NumbersThatAreNoneAreNamed) {
  const auto error = [](const char* field, const nlohmann::json& value) {
    nlohmann::json json = to_json(TrainerState{.step = 4});
    json[field] = value;
    return error_of([&] { trainer_state_from_json(json, "here"); });
  };
  EXPECT_THAT(error("step", 1.5), HasSubstr("here: its run's state: step is 1.5, expected a whole number"));
  EXPECT_THAT(error("step", -1), HasSubstr("step is -1, expected a whole number"));
  EXPECT_THAT(error("tokens", 1e300), HasSubstr("tokens is 1e+300, expected a whole number"));
  EXPECT_THAT(error("next_sample", INT64_MAX), HasSubstr("next_sample is 9223372036854775807, expected"));
  EXPECT_THAT(error("best", {{"figure", "ce"}, {"step", -1}, {"value", 1}, {"without_gain", 0}}),
              HasSubstr("here: its run's state: best: step is -1, expected a whole number"));
  EXPECT_THAT(error("run_config", 3), HasSubstr("run_config is 3, expected a text"));
  EXPECT_THAT(error("said", nlohmann::json::parse("[[5, [[-2, [1]]]]]")),
              HasSubstr("said[0][1][0][0] is -2, expected a whole number from 0"));
  EXPECT_THAT(error("said", nlohmann::json::parse("[[5, [[-1, [1, 4294967296]]]]]")),
              HasSubstr("said[0][1][0][1][1] is 4294967296"));
  EXPECT_THAT(error("said", nlohmann::json::parse("[[5]]")), HasSubstr("expected a step and its texts"));
}

TEST(CheckContinues, ARunWithoutATeacherGetsNone) {
  constexpr const char* alone =
      R"(model { width: 8 } data { text: "a" sequence_length: 48 held_out_fraction: 0.2 seed: 3 }
                                   batch { sequences_per_step: 4 } train { steps: 20 })";
  const TrainerState was{.step = 4, .next_sample = 16, .run_config = to_textproto(parse_config(alone, "x"))};
  EXPECT_THAT(error_of([&] { check_continues(was, "step_4", parse_config(config_text, "x"), "aa", "dd"); }),
              HasSubstr("step_4: its run had no teacher, the config names one"));
}

TEST(CheckContinues, AStateThatContradictsItselfIsRefused) {
  for (const std::int64_t next_sample : {0, 12, 15, 17}) {
    const TrainerState was{
        .step = 4, .next_sample = next_sample, .run_config = to_textproto(parse_config(config_text, "x"))};
    EXPECT_THAT(
        error_of([&] { check_continues(was, "step_4", parse_config(config_text, "x"), "aa", "dd"); }),
        HasSubstr(fmt::format("step_4: its run stood at sample {} after 4 steps, expected 4 a step", next_sample)));
  }
}

TEST(CheckContinues, OtherSamplesAreRefused) {
  EXPECT_THAT(go_on({}), IsEmpty());
  EXPECT_THAT(go_on({"data.text=[b]"}), IsEmpty());  // the same text under another name
  EXPECT_THAT(error_of([] { go_on({"data.seed=4"}); }), AllOf(HasSubstr("step_4: "), HasSubstr("data.seed = 3")));
  EXPECT_THAT(error_of([] { go_on({"batch.sequences_per_step=5"}); }), HasSubstr("batch.sequences_per_step"));
  EXPECT_THAT(error_of([] { go_on({"data.sequence_length=49"}); }), HasSubstr("data.sequence_length"));
  EXPECT_THAT(error_of([] { go_on({"data.held_out_fraction=0.1"}); }), HasSubstr("data.held_out_fraction"));
}

TEST(CheckContinues, AnotherTextIsRefused) {
  EXPECT_THAT(error_of([] { go_on({}, "00000000000000ab"); }),
              AllOf(HasSubstr("step_4: "), HasSubstr("00000000000000aa"), HasSubstr("00000000000000ab"),
                    HasSubstr("data.text")));
  TrainerState unknown{.run_config = to_textproto(parse_config(config_text, "x"))};
  EXPECT_THAT(check_continues(unknown, "step_4", parse_config(config_text, "x"), "ab", "dd"), IsEmpty());
}

TEST(CheckContinues, AnotherTeacherIsRefused) {
  for (const char* other : {"00000000000000de", ""})
    EXPECT_THAT(error_of([&] { go_on({"teacher.source=moved"}, "00000000000000aa", other); }),
                AllOf(HasSubstr("step_4: "), HasSubstr("runs/teacher/checkpoints/step_20"),
                      HasSubstr("00000000000000dd"), HasSubstr("moved has"), HasSubstr("expected the same teacher")));
  EXPECT_THAT(go_on({"teacher.source=moved"}), IsEmpty());  // the same teacher under another name
}

TEST(CheckContinues, SectionsThatChangeAreNamed) {
  EXPECT_THAT(go_on({"objective.temperature=2"}), ElementsAre("objective"));
  EXPECT_THAT(go_on({"moe_loss.z_weight=1"}), ElementsAre("moe_loss"));
  EXPECT_THAT(go_on({"precision.frozen_storage=BFLOAT16"}), ElementsAre("precision"));
  EXPECT_THAT(go_on({"train.steps=21", "optimizer.rate=1", "schedule.warmup_steps=1"}),
              ElementsAre("optimizer", "schedule", "train.steps"));
  EXPECT_THAT(go_on({"train.log_every_steps=3", "output.dir=moved", "parallel.layout=ep2"}), IsEmpty());
}

}  // namespace
}  // namespace limbeck::launch
