#include "launch/run/run_config.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "launch/run/run_directory.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// start/ with text, a teacher and tokens, and elsewhere/run, a run that was started in start/.
class RunConfigTest : public ::testing::Test {
 protected:
  RunConfigTest() {
    for (const char* file : {"start/text/a", "start/teacher.gguf", "start/tokens.idx", "elsewhere/empty"}) {
      fs::create_directories((root_ / file).parent_path());
      testing::write_file(root_ / file, "x");
    }
    own_ = parse_config(
        "teacher { source: 'teacher.gguf' } data { text: 'text' tokenizer: 'bytes' } output { dir: 'run' }", "x");
    own_.output.started_in = (root_ / "start").string();
    fs::current_path(root_ / "elsewhere");
    write();
  }
  ~RunConfigTest() override { fs::current_path(before_); }

  void write() const { RunDirectory(run_).write_config(own_); }
  RunConfig load(const std::vector<std::string>& sets = {}, std::vector<fs::path> more = {}) const {
    more.insert(more.begin(), run_);
    return with_paths_found(load_given_config(more, sets));
  }
  std::string in(const char* folder, const char* file) const { return (root_ / folder / file).string(); }

  fs::path before_ = fs::current_path();
  testing::TemporaryFolder folder_;
  fs::path root_ = fs::canonical(folder_.path());
  fs::path run_ = root_ / "elsewhere/run";
  RunConfig own_;
};

TEST_F(RunConfigTest, APathIsFoundFromWhereTheRunWasStarted) {
  const RunConfig c = load();
  EXPECT_EQ(c.teacher->source, in("start", "teacher.gguf"));
  EXPECT_THAT(c.data.text, ElementsAre(in("start", "text")));
  EXPECT_EQ(c.data.tokenizer, "bytes");
  EXPECT_EQ(c.data.cache_dir, in("start", ".cache/tokens"));
  EXPECT_EQ(c.output.dir, run_.string());
}

TEST_F(RunConfigTest, ElseFromTheRunDirectory) {
  fs::rename(root_ / "start/teacher.gguf", run_ / "teacher.gguf");
  EXPECT_EQ(load().teacher->source, (run_ / "teacher.gguf").string());
  fs::current_path(root_ / "start");
  EXPECT_EQ(load().teacher->source, (run_ / "teacher.gguf").string());
}

TEST_F(RunConfigTest, ElseFromTheWorkingDirectory) {
  fs::rename(root_ / "start", root_ / "elsewhere/moved");  // as a whole project is moved
  fs::current_path(root_ / "elsewhere/moved");
  const RunConfig c = load();
  EXPECT_EQ(c.teacher->source, "teacher.gguf");
  EXPECT_THAT(c.data.text, ElementsAre("text"));
  EXPECT_EQ(c.data.cache_dir, ".cache/tokens");
}

TEST_F(RunConfigTest, WhereItWasStartedPathsStayAsTheyAre) {
  fs::current_path(root_ / "start");
  const RunConfig c = load();
  EXPECT_EQ(c.teacher->source, "teacher.gguf");
  EXPECT_EQ(c.data.cache_dir, ".cache/tokens");
}

TEST_F(RunConfigTest, TheErrorSaysEveryPlace) {
  fs::remove(root_ / "start/teacher.gguf");
  const std::string error = testing::error_of([&] { load(); });
  EXPECT_THAT(error, AllOf(HasSubstr("teacher.source is teacher.gguf"), HasSubstr((root_ / "start").string()),
                           HasSubstr(run_.string()), HasSubstr("nor here in " + (root_ / "elsewhere").string())));
  EXPECT_THROW(load(), core::UsageError);
}

TEST_F(RunConfigTest, TokenFilesAreFoundByTheirPrefix) {
  own_.data.text.clear();
  own_.data.sources = {{.tokens = "tokens"}, {.text = {"text"}}};
  write();
  const RunConfig c = load();
  EXPECT_EQ(c.data.sources[0].tokens, in("start", "tokens"));
  EXPECT_THAT(c.data.sources[1].text, ElementsAre(in("start", "text")));
}

TEST_F(RunConfigTest, WhatIsSetIsFromTheWorkingDirectory) {
  fs::remove(root_ / "start/teacher.gguf");  // what is replaced need not be there
  testing::write_file(root_ / "elsewhere/more.textproto", "data { tokenizer: 'mine' }");
  testing::write_file(root_ / "start/mine", "x");  // which is not meant
  const RunConfig c =
      load({"teacher.source=other.gguf", "data.text+=more", "data.cache_dir=cache"}, {"more.textproto"});
  EXPECT_EQ(c.teacher->source, in("elsewhere", "other.gguf"));
  EXPECT_EQ(c.data.tokenizer, in("elsewhere", "mine"));
  EXPECT_THAT(c.data.text, ElementsAre(in("start", "text"), in("elsewhere", "more")));
  EXPECT_EQ(c.data.cache_dir, in("elsewhere", "cache"));
}

TEST_F(RunConfigTest, WhatIsWrittenAgainKeepsItsPathsAndItsStart) {
  const RunConfig c = load_given_config({run_}, {"train.steps=9"});
  EXPECT_EQ(c.teacher->source, "teacher.gguf");
  EXPECT_EQ(c.output.started_in, (root_ / "start").string());
  EXPECT_EQ(c.output.dir, run_.string());
}

TEST_F(RunConfigTest, ItsConfigFileIsTheRunToo) {
  EXPECT_EQ(load_given_config({run_ / "config.textproto"}, {}), load_given_config({run_}, {}));
  fs::current_path(run_);
  EXPECT_EQ(load_given_config({"config.textproto"}, {}).output.dir, ".");
  // A copy of the file elsewhere is a config like any other.
  fs::copy(run_ / "config.textproto", root_ / "start/config.textproto");
  const RunConfig copy = load_given_config({root_ / "start/config.textproto"}, {});
  EXPECT_EQ(copy.output.dir, "run");
  EXPECT_EQ(copy.teacher->source, "teacher.gguf");
  EXPECT_EQ(copy.output.started_in, "");
}

TEST_F(RunConfigTest, TheDirectoryMayBeSet) { EXPECT_EQ(load({"output.dir=new"}).output.dir, "new"); }

}  // namespace
}  // namespace limbeck::launch
