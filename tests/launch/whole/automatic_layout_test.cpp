// parallel.layout auto: what is taken is said and written, and a run goes on with it.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "launch/config/config.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

constexpr const char* quick = " --set train.threads=1 --set train.device=CPU --set parallel.layout=auto ";

launch::RunConfig resolved(const RunFolder& folder, const std::string& run) {
  return launch::load_config(folder.path() / run / "config.textproto");
}

TEST(AutomaticLayouts, AreTakenSaidAndKept) {
  const RunFolder folder("automatic");
  const auto planned =
      nlohmann::json::parse(folder.succeed(std::string("plan tiny.textproto --ranks 2 --json") + quick));
  const nlohmann::json& first = planned["layouts"][0];
  EXPECT_EQ(planned["layout"], first["layout"]);
  const std::string said = folder.succeed(std::string("train tiny.textproto --steps 2 --out run") + quick, 2);
  const launch::RunConfig config = resolved(folder, "run");
  EXPECT_EQ(config.parallel.layout, first["layout"]);
  EXPECT_THAT(said, HasSubstr("parallel.layout auto: " + config.parallel.layout));
  EXPECT_THAT(said, HasSubstr(" that it may take, and "));
  EXPECT_EQ(nlohmann::json::parse(folder.read("run/start.json"))["starts"][0]["layout"], config.parallel.layout);

  // A run goes on with what it has, whatever would be chosen now, by its folder or by the config that it was given.
  folder.succeed("train tiny.textproto --steps 1 --out own --set parallel.layout=tp2ep2 --set parallel.shard=OPTIMIZER",
                 2);
  const std::string resumed =
      folder.succeed(std::string("train tiny.textproto --steps 2 --out own --resume") + quick, 2);
  EXPECT_THAT(resumed, HasSubstr("parallel.layout auto: tp2ep2, shard OPTIMIZER, with which the run went before"));
  EXPECT_EQ(resolved(folder, "own").parallel.layout, "tp2ep2");
  EXPECT_EQ(resolved(folder, "own").parallel.shard, launch::Shard::Optimizer);
  // But for what is given anew, and under another number of ranks.
  folder.succeed(std::string("train tiny.textproto --steps 3 --out own --resume --set parallel.bucket_mib=3") + quick,
                 2);
  EXPECT_EQ(resolved(folder, "own").parallel.bucket_mib, 3);
  EXPECT_EQ(resolved(folder, "own").parallel.layout, "tp2ep2");
  EXPECT_THAT(folder.succeed(std::string("train tiny.textproto --steps 4 --out own --resume") + quick, 4),
              HasSubstr(" GiB a rank, of "));
  EXPECT_EQ(folder.succeed("train run --steps 3 --resume", 2).find("parallel.layout auto"), std::string::npos);
  EXPECT_EQ(resolved(folder, "run").parallel.layout, config.parallel.layout);
}

// Of three ranks one is the teacher's, whatever the two of the student are cut by.
TEST(AutomaticLayouts, AreTheStudentsBesideATeacherOnARankOfItsOwn) {
  const RunFolder folder("automatic_teacher");
  folder.succeed("train tiny.textproto --steps 1 --out teacher --set train.threads=1 --set train.device=CPU");
  const std::string said =
      folder.succeed(std::string("distill tiny.textproto --steps 1 --out run --set teacher.source=teacher --set "
                                 "parallel.teacher_ranks=1") +
                         quick,
                     3);
  EXPECT_THAT(said, HasSubstr("parallel.layout auto: " + resolved(folder, "run").parallel.layout));
  const auto start = nlohmann::json::parse(folder.read("run/start.json"))["starts"][0];
  EXPECT_EQ(start["ranks"], 3);
  EXPECT_EQ(start["teacher_ranks"], 1);
}

TEST(AutomaticLayouts, AreRefusedInOneLine) {
  const RunFolder folder("automatic_refused");
  for (const auto& [command, says] : {
           std::pair{"train tiny.textproto --out run --set parallel.shard=OPTIMIZER --set parallel.shard_ranks=3",
                     "parallel.shard_ranks is 3, expected a number that divides the world's, 2"},
           {"train tiny.textproto --out run --set batch.sequences_per_step=1 --set model.num_heads=1 --set "
            "model.num_kv_heads=1 --set model.num_layers=1",
            "gives each a sequence in each of its passes"},
           {"train tiny.textproto --out run --set model.width=60000 --set model.moe.expert_width=400000 --set "
            "model.head_width=8 --set model.num_layers=40",
            " that a rank may take: the smallest need is "},
           {"cache-teacher tiny.textproto --out cache --set teacher.source=none", "parallel.layout is auto"},
       }) {
    const Outcome outcome = folder.limbeck(command + std::string(quick), 2);
    EXPECT_NE(outcome.code, 0) << outcome.output;
    EXPECT_THAT(outcome.lines_with("limbeck: error"), ElementsAre(HasSubstr(says)));
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "run"));
  }
}

TEST(AutomaticLayouts, StandAsideWhereLayoutsAreVerified) {
  const RunFolder folder("automatic_verify");
  folder.succeed(std::string("verify tiny.textproto --layouts dp2 --steps 1") + quick, 2);
}

}  // namespace
}  // namespace limbeck
