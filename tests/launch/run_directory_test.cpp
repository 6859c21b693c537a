#include "launch/run_directory.h"

#include <gmock/gmock.h>

#include <fstream>
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
  EXPECT_EQ(load_config(run.config()), c);
  EXPECT_TRUE(fs::is_directory(run.checkpoints()));
  EXPECT_TRUE(RunDirectory::is_run(run.path()));
  EXPECT_FALSE(RunDirectory::is_run(folder_.path()));
}

TEST_F(RunDirectoryTest, RefusesOneThatIsNotEmptyUnlessResumed) {
  const RunConfig c = config("run");
  fs::create_directories(c.output.dir);
  EXPECT_EQ(error_of(c, false), "");  // empty is well
  EXPECT_THAT(error_of(c, false),
              ::testing::AllOf(::testing::HasSubstr(c.output.dir), ::testing::HasSubstr("--resume")));
  EXPECT_EQ(error_of(c, true), "");
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
