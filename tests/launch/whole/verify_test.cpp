// `limbeck verify` as its users run it.
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

/// What it prints with --json.
json verified(const RunFolder& folder, const std::string& arguments, int code, int ranks = 1) {
  const Outcome outcome = folder.limbeck("verify tiny.textproto --quiet --json " + arguments, ranks);
  EXPECT_EQ(outcome.code, code) << outcome.output;
  const std::size_t begin = outcome.output.find('{'), end = outcome.output.rfind('}');
  return begin == std::string::npos ? json() : json::parse(outcome.output.substr(begin, end - begin + 1));
}

TEST(Verify, PrintsARowALayout) {
  const RunFolder folder("verify");
  const std::string text = folder.succeed("verify tiny.textproto --layouts dp2,tp2+train.recompute=true --steps 2");
  for (const char* part : {"2 steps of 192 tokens in float32", "tp2+train.recompute=true", "2 of 2 layouts give"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "runs"));  // it is no run
}

TEST(Verify, EndsWithOneWhereALayoutDiffers) {
  const RunFolder folder("verify_differs");
  // Other numbers, by a setting that changes them.
  const json found = verified(folder, "--layouts dp2,dp2+moe_loss.z_weight=0.5 --precision float64 --steps 2", 1);
  EXPECT_EQ(found["passes"], false);
  ASSERT_EQ(found["layouts"].size(), 2U);
  EXPECT_EQ(found["layouts"][0]["passes"], true);
  EXPECT_LE(found["layouts"][0]["gradient"]["difference"], 1e-11);
  EXPECT_EQ(found["layouts"][1]["passes"], false);
  EXPECT_GT(found["layouts"][1]["loss"], 1e-4);
  EXPECT_THAT(found["layouts"][1]["gradient"]["parameter"].get<std::string>(), HasSubstr("layers."));
  const Outcome text = folder.limbeck("verify tiny.textproto --layouts dp2+moe_loss.z_weight=0.5 --steps 1");
  EXPECT_EQ(text.code, 1);
  EXPECT_THAT(text.output, AllOf(HasSubstr("FAIL"), HasSubstr("the loss of it is not"), HasSubstr("0 of 1 layouts give")));
  // A tolerance that takes it.
  verified(folder, "--layouts dp2+moe_loss.z_weight=0.5 --steps 1 --tolerance 1e9", 0);
}

TEST(Verify, AutoCoversTheRanks) {
  const RunFolder folder("verify_auto");
  const json found = verified(folder, "--ranks 2 --steps 1", 0);
  std::vector<std::string> layouts;
  for (const json& layout : found["layouts"]) {
    layouts.push_back(layout["layout"]);
    EXPECT_EQ(layout["ranks"], 2);
  }
  EXPECT_THAT(layouts, ::testing::IsSupersetOf({"dp2", "tp2", "ep2", "etp2", "tp2ep2",
                                                "dp2+batch.micro_batches=3+parallel.shard=OPTIMIZER",
                                                "dp2+parallel.shard=GRADIENTS", "tp2+parallel.tensor_chunks=2",
                                                "ep2+parallel.expert_exchange=TWO_LEVEL+parallel.expert_chunks=2"}));
}

TEST(Verify, RunsUnderMpirun) {
  const RunFolder folder("verify_mpi");
  const json found = verified(folder, "--layouts tp2,ep2+batch.micro_batches=2 --steps 2", 0, 2);
  ASSERT_EQ(found["layouts"].size(), 2U);
  EXPECT_EQ(found["layouts"][0]["ranks"], 2);
  EXPECT_EQ(verified(folder, "--layouts dp2+moe_loss.z_weight=0.5 --steps 1", 1, 2)["passes"], false);
}

TEST(Verify, ATeacherMayBeElsewhere) {
  const RunFolder folder("verify_teacher");
  folder.succeed("train tiny.textproto --steps 1 --out teacher");
  const json found =
      verified(folder,
               "--set teacher.source=teacher --set objective.temperature=2 --steps 2 --precision float64 "
               "--layouts tp2,dp2+parallel.teacher_ranks=1,dp2+parallel.teacher_layout=tp2",
               0);
  ASSERT_EQ(found["layouts"].size(), 3U);
  EXPECT_EQ(found["layouts"][1]["ranks"], 3);
  EXPECT_EQ(found["layouts"][2]["ranks"], 2);
  verified(folder,
           "--set teacher.source=teacher --steps 1 "
           "--layouts dp1+parallel.teacher_ranks=2+parallel.teacher_layout=pp2",
           0, 3);
}

TEST(Verify, BadInputIsOneLine) {
  const RunFolder folder("verify_bad");
  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"--layouts xp2", "layout 'xp2': 'xp' at position 1 is no axis"},
           {"--layouts dp2+batch.micro_batch=2", "batch.micro_batch"},
           {"--layouts dp2 --ranks 3", "layout 'dp2': the world has 3 ranks, expected 2"},
           {"--layouts dp3+teacher.source=nothing_there+parallel.teacher_layout=tp2",
            "parallel.teacher_layout: layout 'tp2': the world has 3 ranks, expected a multiple of 2"},
           {"--layouts tp2 --precision bfloat16", "--precision"},
           {"--layouts tp2 --steps 0", "--steps"},
           {"--layouts tp2 --set data.text=nothing_there", "nothing_there"}}) {
    const Outcome outcome = folder.limbeck("verify tiny.textproto --quiet " + arguments);
    EXPECT_NE(outcome.code, 0) << arguments;
    const auto errors = outcome.lines_with("limbeck: error");
    ASSERT_EQ(errors.size(), 1U) << arguments << '\n' << outcome.output;
    EXPECT_THAT(errors[0], HasSubstr(message)) << arguments;
  }
  const Outcome under_mpirun = folder.limbeck("verify tiny.textproto --ranks 2", 2);
  EXPECT_EQ(under_mpirun.code, 2);
  EXPECT_THAT(under_mpirun.output, HasSubstr("--ranks is given, expected none under mpirun"));
}

}  // namespace
}  // namespace limbeck
