// Configs of several files, and how long a run is.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "launch/config/config.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ConfigFiles : public ::testing::Test {
 protected:
  /// The config that files of these contents make, named a, b, ...
  RunConfig load(const std::vector<std::string>& contents, const std::vector<std::string>& sets = {}) const {
    std::vector<ConfigPart> parts;
    for (const std::string& text : contents) {
      parts.push_back({folder_.path() / (std::string(1, static_cast<char>('a' + parts.size())) + ".textproto")});
      testing::write_file(parts.back().path, text);
    }
    return load_config(parts, sets);
  }
  std::string error(const std::vector<std::string>& contents, const std::vector<std::string>& sets = {}) const {
    return testing::error_of([&] { load(contents, sets); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ConfigFiles, LaterOnesWinByProtobufsMerge) {
  const RunConfig c = load({"train { steps: 5 seed: 3 } data { text: 'a' } model { width: 64 }",
                            "train { seed: 4 } data { text: ['b', 'c'] } model { num_layers: 2 }",
                            "schedule { kind: linear } train { seed: 5 }"},
                           {"train.log_every_steps=2"});
  EXPECT_EQ(c.train.steps, 5);
  EXPECT_EQ(c.train.seed, 5U);
  EXPECT_EQ(c.train.log_every_steps, 2);
  EXPECT_THAT(c.data.text, ElementsAre("a", "b", "c"));
  EXPECT_EQ(c.model->architecture.width, 64);
  EXPECT_EQ(c.model->architecture.num_layers, 2);
  EXPECT_EQ(c.schedule.kind, ScheduleKind::Linear);
  EXPECT_EQ(c.output.dir, "runs/a+b+c");
}

TEST_F(ConfigFiles, ListsAreReplacedBySet) {
  const std::vector<std::string> files = {"data { text: 'a' }", "data { text: 'b' }"};
  EXPECT_THAT(load(files, {"data.text=c"}).data.text, ElementsAre("c"));
  EXPECT_THAT(load(files, {"data.text+=c"}).data.text, ElementsAre("a", "b", "c"));
}

TEST_F(ConfigFiles, ASectionOfTheBaseIsTakenAwayBySet) {
  const RunConfig c = load({"student_init { num_layers: 3 }", "model { width: 64 }"}, {"student_init="});
  EXPECT_FALSE(c.student_init.has_value());
  EXPECT_TRUE(c.model.has_value());
}

TEST_F(ConfigFiles, APartMayHaveSettingsOfItsOwn) {
  const auto file = folder_.path() / "a.textproto", more = folder_.path() / "b.textproto";
  testing::write_file(file, "output { dir: 'x' } train { seed: 2 }");
  testing::write_file(more, "train { seed: 3 }");
  const RunConfig c = load_config({{file, {"output.dir=y", "train.seed=9"}}, {more}});
  EXPECT_EQ(c.output.dir, "y");
  EXPECT_EQ(c.train.seed, 3U);
}

TEST_F(ConfigFiles, ErrorsNameTheFileThatIsWrong) {
  EXPECT_THAT(error({"train { seed: 1 }", "\ntrain {\n  keep_checkpoints: 0 }"}),
              HasSubstr("b.textproto:3:3: train.keep_checkpoints is 0"));
  EXPECT_THAT(error({"train {\n  keep_checkpoints: 0 }", "train { seed: 1 }"}), HasSubstr("a.textproto:2:3: "));
  EXPECT_THAT(error({"", "train { sed: 1 }"}), HasSubstr("b.textproto:1:9: there is no field sed"));
  const std::string group = "optimizer { groups { pattern: 'a' } }";
  EXPECT_THAT(error({group, group, "optimizer {\n groups {\n pattern: 'a' rate_factor: -1 } }"}),
              HasSubstr("c.textproto:3:15: optimizer.groups[2].rate_factor is -1"));
  EXPECT_THAT(error({"optimizer { groups: [{ pattern: 'a' }, {\n pattern: 'b' rate_factor: -1 }] }", group}),
              HasSubstr("a.textproto:2:15: optimizer.groups[1].rate_factor is -1"));
  EXPECT_THAT(error({group, "optimizer { groups: [{ pattern: 'b' }, {\n}] }"}),
              HasSubstr("b.textproto:1:13: optimizer.groups[2].pattern is not given"));
}

TEST_F(ConfigFiles, OfThreeLengthsTheLastCounts) {
  const RunConfig tokens = load({"train { steps: 5 }", "train { tokens: 1e6 }"});
  EXPECT_EQ(tokens.train.tokens, 1'000'000);
  const RunConfig epochs = load({"train { tokens: 7 }"}, {"train.epochs=1.5"});
  EXPECT_EQ(epochs.train.epochs, 1.5);
  EXPECT_FALSE(epochs.train.tokens.has_value());
  const RunConfig steps = load({"train { epochs: 7 }", "train { steps: 8 }"});
  EXPECT_EQ(steps.train.steps, 8);
  EXPECT_FALSE(steps.train.epochs.has_value());
  const std::string both = error({""}, {"train.steps=3", "train.epochs=2"});
  EXPECT_THAT(both, ::testing::AllOf(HasSubstr("--set train.epochs=2: --set train.steps=3 is given too")));
  for (const RunConfig& c : {tokens, epochs, steps}) EXPECT_EQ(parse_config(to_textproto(c), "x"), c);
}

TEST(RunLength, StepsFollowFromTokens) {
  const auto steps = [](std::int64_t tokens) {
    RunConfig c;
    c.data.sequence_length = 100;
    c.batch.sequences_per_step = 4;
    c.train.tokens = tokens;
    resolve_steps(c, 1);
    EXPECT_FALSE(c.train.tokens.has_value());
    return c.train.steps;
  };
  EXPECT_EQ(steps(1), 1);
  EXPECT_EQ(steps(400), 1);
  EXPECT_EQ(steps(401), 2);
  EXPECT_EQ(steps(4'000'000), 10'000);
  EXPECT_EQ(steps(9'223'372'036'854'775'807), 23'058'430'092'136'940);
}

TEST(RunLength, StepsFollowFromEpochs) {
  const auto steps = [](double epochs, std::int64_t sequences) {
    RunConfig c;
    c.batch.sequences_per_step = 4;
    c.train.epochs = epochs;
    resolve_steps(c, sequences);
    EXPECT_FALSE(c.train.epochs.has_value());
    return c.train.steps;
  };
  EXPECT_EQ(steps(1, 40), 10);
  EXPECT_EQ(steps(1, 41), 11);
  EXPECT_EQ(steps(0.1, 120), 3);  // though 0.1 is above a tenth in binary
  EXPECT_EQ(steps(2.5, 41), 26);
  EXPECT_EQ(steps(1e-9, 41), 1);
  EXPECT_THROW(steps(1e9, 1'000'000'000), core::UsageError);
}

TEST(RunLength, StepsStayWhereTheyWereGiven) {
  RunConfig c = parse_config("train { steps: 12 }", "x");
  const RunConfig before = c;
  resolve_steps(c, 100);
  EXPECT_EQ(c, before);
}

}  // namespace
}  // namespace limbeck::launch
