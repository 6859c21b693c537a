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
    "train tiny.textproto --quiet --set train.steps=400 --set train.checkpoint_every_steps=10 "
    "--set train.keep_checkpoints=4 --set train.eval_tokens=96";

/// Under bash with the variables that mpirun wants here. In `then`, which runs beside it once run/ has `lines` lines of
/// metrics, $p is the launcher, and pid N the process of rank N; trains N PID waits until another process than PID has
/// that rank and is at a step by its sign of life, which may be a second old.
Outcome launch(const RunFolder& folder, const std::string& options, const std::string& command,
               const std::string& then = "true", int lines = 30) {
  std::string start = folder.command("launch " + options + " --oversubscribe --bind-to none -- " + command);
  start = start.substr(start.find("&& ") + 3);
  folder.write("launch.sh",
               fmt::format("cd {}\nset -m\n"
                           "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^tcp "
                           "OMP_NUM_THREADS=1\n{}&\np=$!\n"
                           "pid() {{ sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' run/ranks/$1.json; }}\n"
                           "trains() {{ for i in $(seq 3000); do grep -v -e \"pid.:$2,\" -e 'step.:0,' "
                           "run/ranks/$1.json >/dev/null && break; sleep 0.02; done; }}\n"
                           "{}\n{}\nwait $p\n",
                           folder.path().string(), start, testing::until_metrics("run", lines), then));
  return testing::run_shell("bash " + (folder.path() / "launch.sh").string());
}

/// With a script in mpirun's place, which says and leaves what the ranks would. `then` runs once there is a file
/// "ready".
Outcome launch_script(const RunFolder& folder, const std::string& script, const std::string& options,
                      const std::string& command, const std::string& then = "", const std::string& variables = "") {
  folder.write("mpirun", "#!/bin/bash\n" + script);
  fs::permissions(folder.path() / "mpirun", fs::perms::owner_all);
  const std::string ready = "for i in $(seq 500); do [ -e ready ] && break; sleep 0.02; done; ";
  folder.write("then.sh", then.empty() ? "" : ready + then);
  std::string start = folder.command("launch " + options + " -- " + command);
  start.insert(start.find("&& ") + 3, "PATH=$PWD:$PATH " + variables);
  const std::size_t at = start.find("&& ");
  return testing::run_shell(
      fmt::format("bash -c '{}; set -m; {} & p=$!; . ./then.sh; wait $p'", start.substr(0, at), start.substr(at + 3)));
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
    const std::string file = fmt::format("checkpoints/step_400/rank_{:05}.h5", rank);
    const std::string wanted = folder.read("undisturbed/" + file);
    EXPECT_GT(wanted.size(), rank == 0 ? 100'000U : 0U);  // the first writes what all have
    EXPECT_TRUE(folder.read("run/" + file) == wanted) << file;
  }
  EXPECT_EQ(folder.metrics("run"), folder.metrics("undisturbed"));
}

TEST(Launch, ARankThatIsKilledIsNamedAndTheNewestGoodCheckpointTaken) {
  const RunFolder folder("launch_killed");
  // Nothing is saved behind the damage, for the rank is stopped before.
  const Outcome outcome = launch(
      folder, "-n 2", training + " --out run",
      "trains 1 none; kill -STOP $(pid 1); sleep 0.5; newest=$(ls -dv run/checkpoints/step_* | grep -v tmp | tail -1); "
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
  EXPECT_EQ(lines[1]["from"], step - 10) << outcome.output;
  EXPECT_EQ(lines[1]["to"], 400);
  EXPECT_EQ(lines[1]["ended"], "done");
  EXPECT_EQ(lines[1]["steps_lost"], lines[0]["to"].get<int>() - (step - 10));
  EXPECT_GT(lines[1]["seconds_lost"], 0);
  EXPECT_EQ(outcome.lines_with("Launched 2 times; lost: ").size(), 1U) << outcome.output;
  expect_undisturbed(folder, 2);
}

TEST(Launch, ARankThatIsStoppedIsSeenByTheSignsThatItDoesNotGive) {
  const RunFolder folder("launch_stopped");
  const Outcome outcome =
      launch(folder, "-n 2 --silent-after 3", training + " --out run", "trains 1 none; kill -STOP $(pid 1)");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const auto failed = outcome.lines_with("launch: attempt 1 failed: rank 1 on ");
  ASSERT_EQ(failed.size(), 1U) << outcome.output;
  EXPECT_THAT(failed[0], AllOf(HasSubstr(", at step "), HasSubstr(" in group "),
                               HasSubstr(": gives no sign of life for 3 s (--silent-after)")));
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 2U) << outcome.output;
  EXPECT_EQ(lines[1]["to"], 400);
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
  const RunFolder folder("launch_signal");
  const Outcome outcome = launch(
      folder, "-n 2", "train tiny.textproto --set train.steps=1000000 --set train.checkpoint_every_steps=0 --out run",
      "kill -TERM $p", 3);
  EXPECT_EQ(outcome.code, 3) << outcome.output;
  EXPECT_EQ(outcome.lines_with("stopped at step").size(), 1U) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["ended"], "stopped");
  const auto last = folder.metrics("run").back()["step"].get<std::int64_t>();
  EXPECT_EQ(lines[0]["to"], last);
  EXPECT_TRUE(fs::exists(folder.path() / fmt::format("run/checkpoints/step_{}/manifest.json", last)));
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

TEST(Launch, ItIsAskedAgainUntilItEnds) {
  // The first signal goes to nobody; the second comes in the measurement behind training, and ends a rank.
  const RunFolder folder("launch_again");
  const Outcome outcome = launch_script(folder,
                                        R"(asked() { n=$((n + 1)); [ $n -ge 2 ] || return
  echo "mpirun noticed that process rank 0 with PID 1 on node n exited on signal 10 (User defined signal 1)." >&2
  exit 138; }
trap asked USR1
echo '{"starts": [{"step": 0, "time": 1, "ranks": 2, "threads_per_rank": 1}]}' > run/start.json
echo '{"step": 9, "time": 2}' > run/metrics.jsonl
touch ready
for i in $(seq 400); do sleep 0.05; done
)",
                                        "-n 2", "train tiny.textproto --out run", "kill -TERM $p");
  EXPECT_EQ(outcome.code, 3) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 1U) << outcome.output;
  EXPECT_EQ(lines[0]["ended"], "stopped");
  EXPECT_EQ(lines[0]["to"], 9);
}

TEST(Launch, WhatWasSaidCountsMoreThanThatARankIsSilent) {
  const RunFolder folder("launch_said");
  const Outcome outcome = launch_script(
      folder,
      R"(printf '%-1023s\n' '{"rank": 0, "host": "n", "pid": 1, "step": 3, "operation": "", "operations": 1,
 "waiting": false, "time": 1}' | tr '\n' ' ' > run/ranks/0.json
echo 'limbeck: error: rank 1: out of memory' >&2
sleep 30
)",
      "-n 2 --silent-after 2 --max-restarts 0", "train tiny.textproto --out run");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.lines_with(", and failed: rank 1: out of memory").size(), 1U) << outcome.output;
}

TEST(Launch, MpirunThatIsStoppedBeforeItsRanksJoinIsSeen) {
  const RunFolder folder("launch_stopped_mpirun");
  const Outcome outcome = launch_script(folder, "kill -STOP $$\nexit 1\n", "-n 2 --silent-after 2 --max-restarts 0",
                                        "train tiny.textproto --out run");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.lines_with(", and failed: mpirun has been stopped for 2 s (--silent-after)").size(), 1U)
      << outcome.output;
}

TEST(Launch, TimeInWhichItIsStoppedItselfIsNotMpiruns) {
  const RunFolder folder("launch_both_stopped");
  const Outcome outcome =
      launch_script(folder, "echo $$ > process; touch ready; for i in $(seq 20); do sleep 0.05; done\n",
                    "-n 2 --silent-after 2 --max-restarts 0", "train tiny.textproto --out run",
                    "m=$(cat process); kill -STOP $m; sleep 0.2; kill -STOP $p; sleep 2.5; kill -CONT $m; "
                    "kill -CONT $p; sleep 0.1");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(attempts(folder).size(), 1U) << outcome.output;
}

// A control group is too small for a rank, and the system kills it.
TEST(Launch, ThatMemoryRanOutIsSaid) {
  const RunFolder folder("launch_memory");
  const Outcome outcome = launch_script(folder, R"(
for top in /sys/fs/cgroup/memory /sys/fs/cgroup; do
  group=$top/limbeck$$
  mkdir $group 2>/dev/null || continue
  for limit in memory.max memory.limit_in_bytes; do [ ! -e $group/$limit ] || echo 20M >$group/$limit; done
  (echo $BASHPID >$group/cgroup.procs; head -c 200M /dev/zero | tail >/dev/null)  # which keeps a line whole
  code=$?
  rmdir $group
  if [ $code -eq 137 ]; then
    echo "mpirun noticed that process rank 0 with PID 1 on node n1 exited on signal 9 (Killed)." >&2
    exit 137
  fi
done
touch no_group
exit 1
)",
                                        "-n 2", training + " --out run");
  if (fs::exists(folder.path() / "no_group")) GTEST_SKIP() << "no control group can be made";
  EXPECT_EQ(outcome.code, 1) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("rank 0 on n1: ended by signal 9, while the system killed for lack of memory"));
}

TEST(Launch, TheStepsOfABaselineAreItsToo) {
  const RunFolder folder("launch_baseline");
  const Outcome outcome = launch_script(folder,
                                        R"(n=$(cat attempt 2>/dev/null || echo 0)
echo $((n + 1)) > attempt
mkdir -p run/baseline
echo '{"starts": [{"step": '$((3 * n))', "time": '$((10 * n + 1))', "ranks": 2, "threads_per_rank": 1}]}' > run/baseline/start.json
echo '{"step": '$((3 * n + 4))', "time": '$((10 * n + 5))'}' > run/baseline/metrics.jsonl
exit 1
)",
                                        "-n 2 --max-restarts 2", "distill tiny.textproto --baseline --out run");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.lines_with("it was started again 2 times").size(), 1U) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 3U) << outcome.output;
  EXPECT_EQ(lines[2]["from"], 6);
  EXPECT_EQ(lines[2]["to"], 10);
  EXPECT_EQ(lines[2]["steps_lost"], 1);
}

TEST(Launch, ARankThatFailsTwiceIsDoneWithout) {
  const RunFolder folder("launch_fewer");
  const std::string again = "first=$(pid 1); kill -9 $first; trains 1 $first; kill -9 $(pid 1)";
  const std::string slow = training + " --set optimizer.rate=3e-4";  // so that rounding stays small
  const Outcome outcome = launch(folder, "-n 2 --min-ranks 1", slow + " --set parallel.layout=dp2 --out run", again);
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(outcome.lines_with("going on with 1 rank, for rank 1 was at fault twice").size(), 1U) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 3U) << outcome.output;
  EXPECT_EQ(lines[1]["ranks"], 2);
  EXPECT_EQ(lines[2]["ranks"], 1);
  EXPECT_EQ(lines[2]["ended"], "done");
  // The same samples: losses of two ranks and of one are equal to rounding.
  folder.succeed(slow + " --out undisturbed");
  const auto all = folder.metrics("run"), wanted = folder.metrics("undisturbed");
  ASSERT_EQ(all.size(), wanted.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]["tokens"], wanted[i]["tokens"]);
    EXPECT_NEAR(all[i]["loss"].get<double>(), wanted[i]["loss"].get<double>(), 1e-2)
        << i;  // from step to step it is half a unit
  }
}

TEST(Launch, AHostThatIsNotReachedIsLeftOut) {
  const RunFolder folder("launch_host");
  const Outcome outcome = launch_script(folder, R"(echo "$*" >> asked
case "$*" in *b:2*) echo "ssh: connect to host b port 22: No route to host" >&2; exit 1;; esac
)",
                                        "-n 4 --min-ranks 2 --host a:2,b:2", "train tiny.textproto --out run");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(outcome.lines_with("going on with 2 ranks without b, for b was lost").size(), 1U) << outcome.output;
  const std::string asked = folder.read("asked");
  EXPECT_THAT(asked.substr(0, asked.find('\n')), AllOf(HasSubstr("-n 4 "), HasSubstr(" --host a:2,b:2 ")));
  EXPECT_THAT(asked.substr(asked.find('\n')), AllOf(HasSubstr("-n 2 "), HasSubstr(" --host a:2 ")));
  EXPECT_EQ(attempts(folder).at(0)["host"], "b");
}

TEST(Launch, WithoutAHostThereIsRoomForTheRanksOfTheOthers) {
  // Four ranks on each of two hosts, of which no slots are said: one is lost in training, and is not reached then.
  const RunFolder folder("launch_room");
  folder.write("hosts", "n1\nn2\n");
  const Outcome outcome = launch_script(folder, R"(echo "$*" >> asked
n=$(wc -l < asked)
if [ $n -eq 1 ]; then
  for r in 0 1 2 3 4 5 6 7; do
    printf '%-1023s\n' '{"rank": '$r', "host": "n'$((r / 4 + 1))'.cluster", "pid": 1, "step": 9, "operation": "", "operations": 1, "waiting": false, "time": 1}' > run/ranks/$r.json
  done
  echo '{"starts": [{"step": 0, "time": 1, "ranks": 8, "threads_per_rank": 1}]}' > run/start.json
  echo '{"step": 9, "time": 2}' > run/metrics.jsonl
  echo "ORTE has lost communication with a remote daemon." >&2
  echo "  Remote daemon: [[2047,0],1] on node n2" >&2
  exit 1
fi
for word in "$@"; do case $word in */hosts_0) cp $word last;; esac; done
[ $n -eq 2 ] || exit 0
echo "ssh: connect to host n2 port 22: No route to host" >&2
exit 1
)",
                                        "-n 8 --min-ranks 4 --hostfile hosts", "train tiny.textproto --out run");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(outcome.lines_with("going on with 4 ranks without n2, for n2 was lost").size(), 1U) << outcome.output;
  const auto lines = attempts(folder);
  ASSERT_EQ(lines.size(), 3U) << outcome.output;
  EXPECT_EQ(lines[1]["ranks"], 8);
  EXPECT_EQ(lines[2]["ranks"], 4);
  EXPECT_EQ(lines[2]["without"], std::vector<std::string>{"n2"});
  EXPECT_EQ(folder.read("last"), "n1\n");
  EXPECT_FALSE(fs::exists(folder.path() / "run/ranks/hosts_0"));
}

TEST(Launch, WhereThereIsNoTemporaryFolderTheRunsIsTaken) {
  const RunFolder folder("launch_no_temporary");
  folder.write("hosts", "a slots=2\nb slots=2\n");
  const Outcome outcome =
      launch_script(folder, R"(for word in "$@"; do case $word in */hosts_0) cp $word last; exit 0;; esac; done
echo "ssh: connect to host b port 22: No route to host" >&2
exit 1
)",
                    "-n 2 --hostfile hosts", "train tiny.textproto --out run", "", "TMPDIR=/dev/null/none ");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(folder.read("last"), "a slots=2\n");
}

TEST(Launch, ASignalEndsTheWaitForTheNetwork) {
  const RunFolder folder("launch_network");
  const Outcome outcome = launch_script(
      folder, R"(echo "ssh: Could not resolve hostname b: Temporary failure in name resolution" >&2
touch ready
exit 1
)",
      "-n 2 --host a,b", "train tiny.textproto --out run",
      "for i in $(seq 500); do [ -s run/launches.jsonl ] && break; sleep 0.02; done; sleep 0.3; kill -TERM $p");
  EXPECT_EQ(outcome.code, 3) << outcome.output;
  EXPECT_EQ(outcome.lines_with("from the newest good checkpoint, in 5 s").size(), 1U) << outcome.output;
  EXPECT_EQ(attempts(folder).size(), 1U) << outcome.output;
}

TEST(Launch, WhatIsLeftOfAnAttemptHasTheLockForAWhile) {
  // As a first rank on another host has it, or a file server for a host that is lost.
  const RunFolder folder("launch_locked");
  const Outcome outcome = launch_script(folder, R"([ ! -e held ] || exec test -e freed
touch ready
for i in $(seq 500); do [ -e held ] && break; sleep 0.02; done
exit 1
)",
                                        "-n 2", "train tiny.textproto --out run",
                                        R"(flock run/run.lock bash -c "touch held; sleep 1; touch freed")");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(outcome.lines_with("launch: the run is locked still").size(), 1U) << outcome.output;
  EXPECT_EQ(attempts(folder).size(), 2U) << outcome.output;
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
