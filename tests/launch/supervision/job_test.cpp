#include "launch/supervision/job.h"

#include <gmock/gmock.h>

#include <csignal>
#include <fstream>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

std::vector<std::string> lines_of(Job& job, std::size_t at_least) {
  std::vector<std::string> lines;
  for (int i = 0; i < 1000 && lines.size() < at_least; ++i)
    for (std::string& line : job.read(10ms)) lines.push_back(std::move(line));
  return lines;
}

int code_of(Job& job) {
  for (int i = 0; i < 1000 && !job.has_ended(); ++i) job.read(10ms);
  EXPECT_TRUE(job.has_ended());
  return job.code();
}

TEST(Job, GivesLinesAndTheCode) {
  Job job({"sh", "-c", "echo one >&2; printf 'two\\nthr' >&2; echo ee >&2; exit 7"});
  EXPECT_THAT(lines_of(job, 3), ::testing::ElementsAre("one", "two", "three"));
  EXPECT_EQ(code_of(job), 7);
  Job killed({"sh", "-c", "kill -9 $$"});
  EXPECT_EQ(code_of(killed), 137);
}

TEST(Job, OneThatCannotBeStartedSaysWhy) {
  try {
    Job job({"/no/such/program"});
    FAIL();
  } catch (const core::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("/no/such/program: cannot be started: No such file or directory"));
  }
}

TEST(Job, IsAskedToStopByUsr1) {
  Job job({"sh", "-c", "trap 'exit 3' USR1; echo ready >&2; while :; do sleep 0.05; done"});
  ASSERT_EQ(lines_of(job, 1).size(), 1U);
  job.ask_to_stop();
  EXPECT_EQ(code_of(job), 3);
}

TEST(Job, OneThatIsStoppedGoesOnToStop) {
  Job job({"sh", "-c", "trap 'exit 3' USR1; echo ready >&2; kill -STOP $$; while :; do sleep 0.05; done"});
  ASSERT_EQ(lines_of(job, 1).size(), 1U);
  for (int i = 0; i < 1000 && !job.has_ended() && !job.is_stopped(); ++i) job.read(10ms);
  EXPECT_TRUE(job.is_stopped());
  job.ask_to_stop();
  EXPECT_EQ(code_of(job), 3);
}

TEST(Job, KnowsWhetherItIsStopped) {
  Job job({"sh", "-c", "echo $$ >&2; kill -STOP $$; while :; do sleep 0.05; done"});
  const pid_t process = std::stoi(lines_of(job, 1).at(0));
  const auto wait_until = [&](bool is_stopped) {
    for (int i = 0; i < 1000 && !job.has_ended() && job.is_stopped() != is_stopped; ++i) job.read(10ms);
    EXPECT_EQ(job.is_stopped(), is_stopped);
  };
  wait_until(true);
  ::kill(process, SIGCONT);
  wait_until(false);
  ::kill(process, SIGSTOP);
  wait_until(true);
  EXPECT_FALSE(job.has_ended());
  ::kill(process, SIGCONT);
  ::kill(process, SIGTERM);
  EXPECT_EQ(code_of(job), 143);
  EXPECT_FALSE(job.is_stopped());
}

/// A child in a group of its own, as mpirun's ranks are, that is stopped and whose parent is killed.
TEST(Job, NothingOfItIsLeft) {
  const limbeck::testing::TemporaryFolder folder;
  const std::string file = (folder / "pid").string();
  Job job({"sh", "-c",
           "setsid sh -c 'echo $$ >" + file + "; kill -STOP $$' & until [ -s " + file +
               " ]; do sleep 0.01; done; echo ready >&2; kill -9 $$"});
  ASSERT_EQ(lines_of(job, 1).size(), 1U);
  EXPECT_EQ(code_of(job), 137);
  pid_t child = 0;
  std::ifstream(file) >> child;
  ASSERT_GT(child, 0);
  EXPECT_EQ(::kill(child, 0), 0);  // it is there, stopped
  job.end();
  EXPECT_NE(::kill(child, SIGKILL), 0);  // and where it is, it holds nobody up
}

TEST(Job, WhatDoesNotObeyIsKilled) {
  Job job({"sh", "-c", "trap '' TERM; echo ready >&2; while :; do sleep 0.05; done"});
  ASSERT_EQ(lines_of(job, 1).size(), 1U);
  job.end();
  EXPECT_TRUE(job.has_ended());
  EXPECT_EQ(job.code(), 137);
}

}  // namespace
}  // namespace limbeck::launch
