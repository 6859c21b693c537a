// A rank that does not come ends the job, within half a minute and with a line that says who and where; work that takes
// long is no hang.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <array>
#include <future>
#include <vector>

#include "launch/run/run_config.h"
#include "launch/run/session.h"
#include "parallel/comm/engine.h"
#include "tests/support/heard_of.h"
#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using ::testing::ContainsRegex;
using testing::Outcome;
using testing::RunFolder;

/// Runs the command on two ranks, the second of which may have variables of its own, and once run/ has three lines of
/// metrics does `then`, in which $(cat pid.1) is the second rank's process, $(cat pid.0) the first's. The last line
/// says how long that took to the end.
Outcome run_and(const RunFolder& folder, const std::string& arguments, const std::string& then,
                const std::string& of_second = "") {
  const std::string program = testing::program().string();
  std::string command = folder.command("", 2);  // "cd FOLDER && ... mpirun ... -n 2 limbeck "
  command.resize(command.rfind(program));
  folder.write("rank.sh", fmt::format("echo $$ >pid.$OMPI_COMM_WORLD_RANK\n"
                                      "[ $OMPI_COMM_WORLD_RANK = 0 ] || export IS_SECOND=1 {}\n"
                                      "exec {} {} --out run --quiet\n",
                                      of_second, program, arguments));
  const std::size_t at = command.find("&& ");
  return testing::run_shell(
      fmt::format("{}; {}sh rank.sh & p=$!; {}; "
                  "since=$(date +%s); {}; wait $p; code=$?; echo it took $(($(date +%s) - since)) s; exit $code",
                  command.substr(0, at), command.substr(at + 3), testing::until_metrics("run", 3), then));
}

const std::string endless =
    "tiny.textproto --set train.steps=1000000 --set train.checkpoint_every_steps=0 --set parallel.deadline_s=3";

/// That it failed within half a minute, and what its error says.
std::string error_of(const Outcome& outcome) {
  EXPECT_NE(outcome.code, 0) << outcome.output;
  const auto took = outcome.lines_with("it took ");
  EXPECT_EQ(took.size(), 1U) << outcome.output;
  for (const std::string& line : took) {
    EXPECT_LT(std::stoi(line.substr(8)), 30) << outcome.output;
  }
  const auto errors = outcome.lines_with("limbeck: error");
  EXPECT_LE(errors.size(), 1U) << outcome.output;
  return errors.empty() ? "" : errors[0];
}

TEST(Hangs, ARankThatDiesEndsTheJob) {
  const RunFolder folder("hang_killed");
  error_of(run_and(folder, "train " + endless, "kill -KILL $(cat pid.1)"));  // mpirun says it
}

/// How a message names what a rank waits in: operation, elements, what they are, axis.
const std::string exchange =
    "(all_reduce\\((sum|max)\\)|all_gather) of [0-9]+ [a-z]+[0-9]+ \\([a-z][^()]+\\) in group (world|data|e?dp)[a-z ]*";
const std::string missed = " at step [0-9]+: no end after 3 s \\(parallel\\.deadline_s\\); ";

/// That a job ends so whose rank is stopped, while another waits in `waits` and has last heard of it in `heard`.
void expect_stopped_is_named(const RunFolder& folder, const std::string& arguments, int rank, const std::string& waits,
                             const std::string& heard) {
  const Outcome outcome = run_and(folder, arguments, fmt::format("kill -STOP $(cat pid.{})", rank));
  EXPECT_THAT(error_of(outcome), ContainsRegex(waits + missed +
                                               fmt::format("rank {} has not come and does not answer: last heard of "
                                                           "at step [0-9]+, in {}",
                                                           rank, heard)));
}

/// The first rank, which prints and writes metrics, or the second; or the student's, of which the teacher's rank takes
/// questions whenever they come. All jobs at once, for they mostly wait.
TEST(Hangs, ARankThatIsStoppedIsNamed) {
  const std::array<RunFolder, 3> folders = {RunFolder("hang_stopped_0"), RunFolder("hang_stopped_1"),
                                            RunFolder("hang_stopped_student")};
  std::vector<std::future<void>> jobs;
  for (const int rank : {0, 1})
    jobs.push_back(std::async(std::launch::async, [&folder = folders[static_cast<std::size_t>(rank)], rank] {
      expect_stopped_is_named(folder, "train " + endless, rank, exchange, exchange);
    }));
  folders[2].succeed("train tiny.textproto --out teacher --steps 1");
  expect_stopped_is_named(
      folders[2], "distill " + endless + " --set teacher.source=teacher --set parallel.teacher_ranks=1", 0,
      "rank 1: (receive|send) of [0-9]+ [a-z]+[0-9]+ \\((question to|answer of) the teacher\\) in group world",
      "send of [0-9]+ int[0-9]+ \\(question to the teacher\\) in group world");
  for (std::future<void>& job : jobs) job.get();
}

TEST(Hangs, ARankThatSleepsIsNamed) {
  const RunFolder folder("hang_sleeps");
  EXPECT_THAT(error_of(run_and(folder, "train " + endless, "touch asleep",
                               testing::slow_calls() + " SLEEP_AT=/proc/self/status SLEEP_IF=asleep")),
              ContainsRegex(exchange + missed + "rank 1 has not come: it is at step [0-9]+, its last operation was " +
                            exchange));
}

TEST(Hangs, ASlowDiskIsNone) {
  const RunFolder folder("slow_disk");
  const Outcome outcome = run_and(
      folder,
      "train tiny.textproto --set train.steps=4 --set train.checkpoint_every_steps=2 --set parallel.deadline_s=2",
      "true", testing::slow_calls() + " SLOW_FSYNC_MS=3000");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(folder.metrics("run").size(), 4U);
  // The third step did not wait for the disk, which takes longer.
  std::istringstream lines(folder.read("run/metrics.jsonl"));
  std::vector<nlohmann::json> metrics;
  for (std::string line; std::getline(lines, line);) metrics.push_back(nlohmann::json::parse(line));
  EXPECT_FALSE(metrics[1].contains("save_stall_s"));
  EXPECT_GT(metrics[2]["save_stall_s"], 0);
  EXPECT_LT(metrics[2]["save_stall_s"], 3);
}

/// The second rank waits in a step for what it reads of the teacher's cache, for longer than the deadline.
TEST(Hangs, ASlowDiskWithinAStepIsNone) {
  const RunFolder folder("slow_step");
  folder.succeed("train tiny.textproto --out teacher --steps 1");
  folder.succeed("cache-teacher tiny.textproto --set teacher.source=teacher --set teacher.cache_tokens=4 --out cache");
  const std::string going_on =
      "touch slow; for i in $(seq 500); do [ -e slow ] || break; sleep 0.02; done; lines=$(wc -l <run/metrics.jsonl); "
      "for i in $(seq 500); do [ $(wc -l <run/metrics.jsonl) -gt $((lines + 3)) ] && break; sleep 0.02; done; "
      "kill -TERM $(cat pid.1)";
  const Outcome outcome =
      run_and(folder, "distill " + endless + " --set teacher.cache=cache --set parallel.deadline_s=2", going_on,
              testing::slow_calls() + " SLOW_PREAD_MS=3200 SLOW_PREAD_IF=slow");
  EXPECT_EQ(outcome.code, 3) << outcome.output;  // stopped by the signal, and saved
  EXPECT_TRUE(outcome.lines_with("limbeck: error").empty()) << outcome.output;
  const auto warnings = outcome.lines_with("has waited for a disk");
  ASSERT_EQ(warnings.size(), 1U) << outcome.output;
  EXPECT_THAT(warnings[0], ContainsRegex("rank 1 has waited for a disk for more than 2 s \\(parallel\\.deadline_s\\): "
                                         "it reads .*cache; the others wait for it"));
}

TEST(Hangs, ARankSaysWhichTextItReads) {
  const RunFolder folder("says_text");
  const launch::RunConfig config = launch::load_given_config(
      {folder.path() / "tiny.textproto"}, {"data.text=" + (folder.path() / "text").string(), "train.device=CPU"});
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1, false);
    launch::Session session(rank, config, launch::make_log(1));
    const launch::StepText text = session.step_text(0);
    const parallel::FileWaits& waits = world.comm->engine().file_waits();
    EXPECT_EQ(waits.now(), "");
    EXPECT_EQ(testing::heard_of(waits, [&] { text.fetch(0, 4); }),
              "reads " + session.text->sources()[0].file().prefix() + ".bin");
  });
}

}  // namespace
}  // namespace limbeck
