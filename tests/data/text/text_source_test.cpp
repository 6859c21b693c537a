#include "data/text/text_source.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::write_file;

class TextFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_ / "text/b");
    fs::create_directory(folder_ / "other");
    write_file(folder_ / "text/a.txt", "a");
    write_file(folder_ / "text/b/c.txt", "c");
    write_file(folder_ / "other/d.txt", "d");
  }
  std::vector<std::string> files() const {
    std::vector<std::string> found;
    for (const auto& file : list_text_files({(folder_ / "text").string()}))
      found.push_back(fs::path(file).lexically_relative(folder_ / "text").string());
    return found;
  }

  testing::TemporaryFolder folder_;
};

TEST_F(TextFolder, LinksAreFollowedAndEachFolderIsReadOnce) {
  fs::create_symlink(folder_ / "other", folder_ / "text/a_link");
  fs::create_symlink(folder_ / "text", folder_ / "text/b/circle");
  fs::create_symlink(folder_ / "text/b", folder_ / "text/again");  // in front of b by its name
  fs::create_symlink(folder_ / "other/d.txt", folder_ / "text/linked.txt");
  EXPECT_THAT(files(), ElementsAre("a.txt", "a_link/d.txt", "b/c.txt", "linked.txt"));
  fs::create_symlink("../z", folder_ / "text/b/to_z");
  fs::create_directory(folder_ / "text/z");
  write_file(folder_ / "text/z/e.txt", "e");
  EXPECT_THAT(files(), ElementsAre("a.txt", "a_link/d.txt", "b/c.txt", "linked.txt", "z/e.txt"));
}

TEST_F(TextFolder, WhatCannotBeReadIsNamed) {
  fs::create_symlink(folder_ / "gone", folder_ / "text/missing.txt");
  EXPECT_THAT(error_of([&] { files(); }), HasSubstr("text/missing.txt: is a link to nothing, expected a text file"));
  fs::remove(folder_ / "text/missing.txt");
  ASSERT_EQ(::mkfifo((folder_ / "text/pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { files(); }), HasSubstr("text/pipe: is a pipe, expected a text file"));
  fs::remove(folder_ / "text/pipe");
  write_file(folder_ / "text/.hidden", "h");
  EXPECT_THAT(files(), ElementsAre("a.txt", "b/c.txt"));
  fs::create_symlink("round", folder_ / "round");
  EXPECT_THAT(error_of([&] { list_text_files({(folder_ / "round").string()}); }),
              HasSubstr("round: cannot be read: Too many levels of symbolic links"));
}

}  // namespace
}  // namespace limbeck::data
