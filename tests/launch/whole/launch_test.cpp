// `limbeck launch`: whatever ends a rank in the midst of a run, the run comes to the end that it has undisturbed, to
// the same bits; and what is of no use to try again is not.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <sstream>

#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

const std::string training =
    "train tiny.textproto --quiet --set train.steps=60 --set train.checkpoint_every_steps=5 "
    "--set train.keep_checkpoints=4 --set train.eval_tokens=96";

/// Under bash with the variables that mpirun wants here. In `then`, which runs beside it once run/ has `lines` lines of
/// metrics, $p is the launcher, and pid N the process of rank N.
Outcome launch(const RunFolder& folder, const std::string& options, const std::string& command,
               const std::string& then = "true", int lines = 20) {
  std::string start = folder.command("launch " + options + " --oversubscribe --bind-to none -- " + command);
  start = start.substr(start.find("&& ") + 3);
  folder.write("launch.sh",
               fmt::format("cd {}\nset -m\n"
                           "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^tcp "
                           "OMP_NUM_THREADS=1 {}&\np=$!\n"
                           "pid() {{ sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' run/ranks/$1.json; }}\n"
                           "{}\n{}\nwait $p\n",
                           folder.path().string(), "; " + start, testing::until_metrics("run", lines), then));
  return testing::run_shell("bash " + (folder.path() / "launch.sh").string());
}

std::vector<nlohmann::json> attempts(const RunFolder& folder) {
  std::vector<nlohmann::json> lines;
  std::istringstream in(folder.read("run/launches.jsonl"));
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

/// That run/ ended as a run that nothing stopped: its weights and optimizer states to the bit, and its metrics.
void expect_undisturbed(const RunFolder& folder, int ranks) {
  folder.succeed(training + " --out undisturbed", ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const std::string file = fmt::format("checkpoints/step_60/rank_{:05}.h5", rank);
    const std::string wanted = folder.read("undisturbed/" + file);
    EXPECT_GT(wanted.size(), rank == 0 ? 100'000U : 0U);  // the first writes what all have
    EXPECT_TRUE(folder.read("run/" + file) == wanted) << file;
  }
  EXPECT_EQ(folder.metrics("run"), folder.metrics("undisturbed"));
}

TEST(Launch, ARankThatIsKilledIsNamedAndTheNewestGoodCheckpointTaken) {
  const RunFolder folder("launch_killed");
  // Nothing is saved behind the damage, for the rank is stopped before.
  const Outcome outcome =
      launch(folder, "-n 2", training + " --out run",
             "kill -STOP $(pid 1); sleep 0.5; newest=$(ls -dv run/checkpoints/step_* | grep -v tmp | tail -1); "
             "echo damaged $newest; printf XXXXXXXX | dd of=$newest/rank_00000.h5 bs=1 seek=9000 conv=notrunc "
             "status=none; kill -9 $(pid 1)");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const auto failed = outcome.lines_with("launch: attempt 1 failed: rank 1 on ");
  ASSERT_EQ(failed.size(), 1U) << outcome.output;
  EXPECT_THAT(failed[0], AllOf(HasSubstr(", at step "), HasSubstr(" in group "), HasSubstr(": ended by signal 9")));
  const auto damaged = outcome.lines_with("damaged run/checkpoints/step_");
  ASSERT_EQ(damaged.size(), 1U) << outcome.output;
  const int step = std::stoi(damaged[0].substr(damaged[0].rfind('_') + 1));
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 2U) << outcome.output;
  EXPECT_EQ(lines[0]["from"], 0);
  EXPECT_EQ(lines[0]["ended"], "failed");
  EXPECT_EQ(lines[0]["rank"], 1);
  EXPECT_GE(lines[0]["to"], step);
  EXPECT_EQ(lines[1]["from"], step - 5) << outcome.output;
  EXPECT_EQ(lines[1]["to"], 60);
  EXPECT_EQ(lines[1]["ended"], "done");
  EXPECT_EQ(lines[1]["steps_lost"], lines[0]["to"].get<int>() - (step - 5));
  EXPECT_GT(lines[1]["seconds_lost"], 0);
  EXPECT_EQ(outcome.lines_with("Launched 2 times; lost: ").size(), 1U) << outcome.output;
  expect_undisturbed(folder, 2);
}

TEST(Launch, ARankThatIsStoppedIsSeenByTheSignsThatItDoesNotGive) {
  const RunFolder folder("launch_stopped");
  const Outcome outcome = launch(folder, "-n 2 --silent-after 5", training + " --out run", "kill -STOP $(pid 1)");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const auto failed = outcome.lines_with("launch: attempt 1 failed: rank 1 on ");
  ASSERT_EQ(failed.size(), 1U) << outcome.output;
  EXPECT_THAT(failed[0], AllOf(HasSubstr(", at step "), HasSubstr(" in group "),
                               HasSubstr(": gives no sign of life for 5 s (--silent-after)")));
  EXPECT_EQ(attempts(folder).size(), 2U);
  expect_undisturbed(folder, 2);
}

TEST(Launch, TheSameStepAndCauseTwiceIsTheEnd) {
  const RunFolder folder("launch_same");
  const Outcome outcome = launch(folder, "-n 2",
                                 training +
                                     " --out run --set optimizer.rate=1e30 --set optimizer.clip_norm=0 "
                                     "--set schedule.warmup_steps=0 --set train.checkpoint_every_steps=1",
                                 "true", 0);
  EXPECT_EQ(outcome.code, 1) << outcome.output;
  EXPECT_EQ(attempts(folder).size(), 2U) << outcome.output;
  EXPECT_EQ(outcome.lines_with("limbeck: error: launch: no more attempts: ").size(), 1U) << outcome.output;
}

TEST(Launch, WrongUseIsNotTriedAgain) {
  const RunFolder folder("launch_use");
  // By the ranks, and before there are any.
  const Outcome ranks = launch(folder, "-n 2", training + " --out run --set parallel.layout=ep3", "true", 0);
  EXPECT_EQ(ranks.code, 2) << ranks.output;
  EXPECT_EQ(ranks.lines_with("limbeck: error").size(), 1U) << ranks.output;
  EXPECT_EQ(attempts(folder).size(), 1U);
  folder.succeed("train tiny.textproto --quiet --steps 1 --out other");
  for (const std::string& command :
       {std::string("train tiny.textproto --nonsense"), std::string("eval other"), training + " --out other"}) {
    const Outcome outcome = launch(folder, "-n 2", command, "true", 0);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    EXPECT_EQ(outcome.lines_with("limbeck: error").size(), 1U) << outcome.output;
  }
  EXPECT_FALSE(fs::exists(folder.path() / "other/launches.jsonl"));
}

TEST(Launch, ASignalToItIsTheRunsAndItIsNotStartedAgain) {
  for (const char* signal : {"TERM", "INT", "USR1"}) {
    const RunFolder folder("launch_signal");
    const Outcome outcome = launch(
        folder, "-n 2", "train tiny.textproto --set train.steps=1000000 --set train.checkpoint_every_steps=0 --out run",
        fmt::format("kill -{} $p", signal), 3);
    EXPECT_EQ(outcome.code, 3) << signal << outcome.output;
    EXPECT_EQ(outcome.lines_with("stopped at step").size(), 1U) << outcome.output;
    const auto lines = attempts(folder);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0]["ended"], "stopped");
    const auto last = folder.metrics("run").back()["step"].get<std::int64_t>();
    EXPECT_EQ(lines[0]["to"], last);
    EXPECT_TRUE(fs::exists(folder.path() / fmt::format("run/checkpoints/step_{}/manifest.json", last)));
  }
}

TEST(Launch, OneThatIsKilledLeavesNoRanks) {
  const RunFolder folder("launch_orphans");
  const Outcome outcome = launch(
      folder, "-n 2", "train tiny.textproto --set train.steps=1000000 --set train.checkpoint_every_steps=0 --out run",
      "ranks=\"$(pid 0) $(pid 1)\"; kill -9 $p; for i in $(seq 300); do kill -0 $ranks 2>/dev/null || break; "
      "sleep 0.1; done; kill -0 $ranks 2>/dev/null && echo they live",
      3);
  EXPECT_EQ(outcome.lines_with("they live").size(), 0U) << outcome.output;
}

TEST(Launch, ARankThatFailsTwiceIsDoneWithout) {
  const RunFolder folder("launch_fewer");
  // Again once the second attempt has come further than the first.
  const std::string again =
      "kill -9 $(pid 1); for i in $(seq 3000); do [ $(cat run/launches.jsonl 2>/dev/null | wc -l) -ge 1 ] && break; "
      "sleep 0.02; done; " +
      testing::until_metrics("run", 45) + "; kill -9 $(pid 1)";
  const Outcome outcome =
      launch(folder, "-n 2 --min-ranks 1", training + " --set parallel.layout=dp2 --out run", again);
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(outcome.lines_with("going on with 1 rank, for rank 1 was at fault twice").size(), 1U) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 3U) << outcome.output;
  EXPECT_EQ(lines[1]["ranks"], 2);
  EXPECT_EQ(lines[2]["ranks"], 1);
  EXPECT_EQ(lines[2]["ended"], "done");
  // The same samples: losses of two ranks and of one are equal to rounding.
  folder.succeed(training + " --out undisturbed");
  const auto all = folder.metrics("run"), wanted = folder.metrics("undisturbed");
  ASSERT_EQ(all.size(), wanted.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]["tokens"], wanted[i]["tokens"]);
    EXPECT_NEAR(all[i]["loss"].get<double>(), wanted[i]["loss"].get<double>(), 1e-3) << i;
  }
}

TEST(Launch, SlotsThatAreLackingMakeFewerRanks) {
  const RunFolder folder("launch_slots");
  std::string start = folder.command("launch -n 3 --min-ranks 2 --host localhost:2 --bind-to none -- " + training +
                                     " --steps 3 --out run");
  start.insert(start.find("&& ") + 3,
               "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^tcp "
               "OMPI_MCA_rmaps_base_oversubscribe=0 ");
  const Outcome outcome = testing::run_shell(start);
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 2U) << outcome.output;
  EXPECT_EQ(lines[1]["ranks"], 2);
}

}  // namespace
}  // namespace limbeck
