// Optimizers as users choose them: runs that are stopped and resumed, layouts that change, groups that do not fit.

#include <gmock/gmock.h>

#include <cmath>

#include "data/checkpoints/checkpoint.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

struct Choice {
  const char* name;
  const char* sets;
  const char* moment;  // a tensor of the checkpoint
  friend void PrintTo(const Choice& choice, std::ostream* out) { *out << choice.name; }
};

class OptimizerRuns : public ::testing::TestWithParam<Choice> {};

TEST_P(OptimizerRuns, ResumedIsBitIdenticalAndAnotherLayoutAgrees) {
  const Choice& choice = GetParam();
  const RunFolder folder(std::string("optimizer_") + choice.name);
  const std::string train = std::string("train tiny.textproto ") + choice.sets + " --set parallel.layout=";
  const Outcome whole = folder.limbeck(train + "ep2 --steps 10 --out whole", 2);
  ASSERT_EQ(whole.code, 0) << whole.output;
  for (const char* run : {"same", "alone"}) ASSERT_EQ(folder.limbeck(train + "ep2 --steps 5 --out " + run, 2).code, 0);
  const Outcome same = folder.limbeck(train + "ep2 --steps 10 --resume --out same", 2);
  ASSERT_EQ(same.code, 0) << same.output;
  const Outcome alone = folder.limbeck(train + "dp1 --steps 10 --resume --out alone");
  ASSERT_EQ(alone.code, 0) << alone.output;

  const auto expected = folder.metrics("whole");
  EXPECT_EQ(folder.metrics("same"), expected);
  const auto other = folder.metrics("alone");
  ASSERT_EQ(other.size(), 10U);
  for (std::size_t i = 5; i < 10; ++i) {
    const double loss = expected[i]["loss"];
    EXPECT_NEAR(other[i]["loss"].get<double>(), loss, 1e-4 * loss) << "step " << i + 1;
  }
  EXPECT_LT(expected.back()["loss"].get<double>(), expected.front()["loss"].get<double>());
  // The choice is of effect: without it the same bits would come out.
  ASSERT_EQ(folder.limbeck("train tiny.textproto --set parallel.layout=ep2 --steps 10 --out plain", 2).code, 0);
  EXPECT_NE(folder.metrics("plain").back()["loss"], expected.back()["loss"]);
  const data::Checkpoint checkpoint(folder.path() / "whole/checkpoints/step_10");
  EXPECT_TRUE(checkpoint.tensors().contains(choice.moment));
}

INSTANTIATE_TEST_SUITE_P(
    EndToEnd, OptimizerRuns,
    ::testing::Values(
        Choice{"muon", "--set optimizer.kind=MUON", "optimizer/layers.0.attention.q.weight/momentum_buffer"},
        Choice{"eight_bit", "--set optimizer.eight_bit_state=true", "optimizer/embed.weight/exp_avg"},
        Choice{"bfloat16", "--set precision.bfloat16_weights=true", "optimizer/embed.weight/master"},
        Choice{"compute_bfloat16", "--set precision.compute=BFLOAT16 --set precision.bfloat16_residual=true",
               "optimizer/embed.weight/exp_avg"},
        Choice{"fp8", "--set precision.compute=BFLOAT16 --set precision.fp8_products=true",
               "optimizer/embed.weight/exp_avg"},
        Choice{"all_of_it",
               "--set optimizer.kind=MUON --set optimizer.eight_bit_state=true --set precision.bfloat16_weights=true "
               "--set schedule.kind=WARMUP_STABLE_DECAY --set 'optimizer.groups={pattern:\"*.router.*\" adamw: true}' "
               "--set 'optimizer.groups={pattern:\"layers.0.attention.*\" frozen: true}'",
               "optimizer/layers.1.attention.q.weight/master"}),
    [](const auto& choice) { return std::string(choice.param.name); });

TEST(OptimizerRunErrors, AreOneLineThatNamesTheField) {
  const RunFolder folder("optimizer_errors");
  const auto error = [&](const std::string& sets) {
    const Outcome outcome = folder.limbeck("train tiny.textproto --steps 1 --out run " + sets);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    const auto lines = outcome.lines_with("limbeck: error");
    EXPECT_EQ(lines.size(), 1U) << outcome.output;
    return lines.empty() ? outcome.output : lines[0];
  };
  EXPECT_THAT(error("--set 'optimizer.groups={pattern: \"layers.9.*\"}'"),
              HasSubstr("optimizer.groups[0]: the pattern layers.9.* matches no parameter"));
  EXPECT_THAT(error("--set 'optimizer.groups={pattern: \"*\" frozen: true}'"), HasSubstr("parameters are frozen"));
}

}  // namespace
}  // namespace limbeck
