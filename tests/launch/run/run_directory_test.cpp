#include "launch/run/run_directory.h"

#include <gmock/gmock.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

class RunDirectoryTest : public ::testing::Test {
 protected:
  RunConfig config(const std::string& name) {
    RunConfig c;
    c.output.dir = (folder_.path() / name).string();
    return c;
  }
  std::string error_of(const RunConfig& c, bool resume) {
    try {
      RunDirectory::open(c, resume);
    } catch (const core::UsageError& error) {
      return error.what();
    }
    return "";
  }
  limbeck::testing::TemporaryFolder folder_;
};

TEST_F(RunDirectoryTest, HoldsTheConfigAsResolved) {
  RunConfig c = config("a/b/run");
  c.train.steps = 17;
  const RunDirectory run = RunDirectory::open(c, false);
  EXPECT_FALSE(RunDirectory::is_run(run.path()));
  run.write_config(c);
  EXPECT_EQ(load_config(run.config()), c);
  EXPECT_TRUE(fs::is_directory(run.checkpoints()));
  EXPECT_TRUE(RunDirectory::is_run(run.path()));
  EXPECT_FALSE(RunDirectory::is_run(folder_.path()));
}

TEST_F(RunDirectoryTest, RefusesOneThatIsNotEmptyUnlessResumed) {
  const RunConfig c = config("run");
  fs::create_directories(c.output.dir);
  EXPECT_EQ(error_of(c, false), "");  // empty is well
  EXPECT_EQ(error_of(c, false), "");  // and one where no run began
  RunDirectory(c.output.dir).write_config(c);
  EXPECT_THAT(error_of(c, false),
              ::testing::AllOf(::testing::HasSubstr(c.output.dir), ::testing::HasSubstr("--resume")));
  EXPECT_EQ(error_of(c, true), "");
}

TEST_F(RunDirectoryTest, OpeningLeavesTheRecordOfTheRunAsItIs) {
  RunConfig c = config("run");
  c.train.steps = 17;
  RunDirectory::open(c, false).write_config(c);
  c.train.steps = 18;
  const RunDirectory again = RunDirectory::open(c, true);
  EXPECT_EQ(load_config(again.config()).train.steps, 17);
}

TEST_F(RunDirectoryTest, AFolderOfSomethingElseIsNotContinued) {
  const RunConfig c = config("notes");
  fs::create_directories(c.output.dir);
  std::ofstream(c.output.dir + "/config.textproto") << "x";  // a run has checkpoints beside it
  EXPECT_THAT(error_of(c, true), ::testing::AllOf(::testing::HasSubstr(c.output.dir), ::testing::HasSubstr("no run")));
  EXPECT_EQ(std::distance(fs::directory_iterator(c.output.dir), fs::directory_iterator()), 1);
}

TEST_F(RunDirectoryTest, OneProcessAtATime) {
  const RunConfig c = config("run");
  auto first = std::make_optional(RunDirectory::open(c, false));
  for (const bool resume : {false, true}) {
    const std::string error = limbeck::testing::error_of([&] { RunDirectory::open(c, resume); });
    EXPECT_THAT(error, ::testing::HasSubstr(c.output.dir + "/run.lock"));
    EXPECT_THAT(error, ::testing::Not(::testing::HasSubstr("\n")));
  }
  first.reset();
  EXPECT_EQ(error_of(c, true), "");
}

TEST_F(RunDirectoryTest, WhatWasRemovedIsMadeAgain) {
  const RunConfig c = config("run");
  RunDirectory run = RunDirectory::open(c, false);
  run.write_config(c);
  EXPECT_TRUE(run.make_whole(c));  // there are no metrics, which their writer makes
  testing::write_file(run.metrics(), "");
  EXPECT_FALSE(run.make_whole(c));
  const auto others_are_kept_out = [&] {
    return limbeck::testing::error_of([&] { RunDirectory::open(c, true); }).find("run.lock") != std::string::npos;
  };
  for (const char* gone : {"", "run.lock", "config.textproto", "metrics.jsonl"}) {
    fs::remove_all(run.path() / gone);
    EXPECT_TRUE(run.make_whole(c)) << gone;
    testing::write_file(run.metrics(), "");
    EXPECT_FALSE(run.make_whole(c)) << gone;
    EXPECT_EQ(load_config(run.config()), c);
    EXPECT_TRUE(RunDirectory::is_run(run.path()));
    EXPECT_TRUE(others_are_kept_out()) << gone;
  }
}

TEST_F(RunDirectoryTest, AnotherRunInItsPlaceIsLeftAlone) {
  RunConfig c = config("run");
  RunDirectory run = RunDirectory::open(c, false);
  run.write_config(c);
  fs::remove_all(run.path());
  RunConfig other = c;
  other.train.steps = 99;
  {
    const RunDirectory others = RunDirectory::open(other, false);
    others.write_config(other);
    EXPECT_THAT(limbeck::testing::error_of([&] { run.make_whole(c); }), ::testing::HasSubstr("another process"));
  }
  EXPECT_THAT(limbeck::testing::error_of([&] { run.make_whole(c); }), ::testing::HasSubstr("holds another run now"));
  EXPECT_EQ(load_config(run.config()), other);
}

TEST_F(RunDirectoryTest, ARefusedFolderHasNoTraceOfIt) {
  const RunConfig c = config("notes");
  fs::create_directories(c.output.dir);
  std::ofstream(c.output.dir + "/a.txt") << "x";
  for (const bool resume : {false, true}) EXPECT_NE(error_of(c, resume), "");
  EXPECT_FALSE(fs::exists(c.output.dir + "/run.lock"));
}

TEST_F(RunDirectoryTest, ResumeOfNothingStarts) { EXPECT_EQ(error_of(config("new"), true), ""); }

TEST_F(RunDirectoryTest, AFileInItsPlaceIsNamed) {
  const RunConfig c = config("file");
  std::ofstream(c.output.dir) << "x";
  EXPECT_THAT(error_of(c, false), ::testing::HasSubstr(c.output.dir));
  EXPECT_THAT(error_of(config("file/below"), false), ::testing::HasSubstr("file/below"));
}

}  // namespace
}  // namespace limbeck::launch
