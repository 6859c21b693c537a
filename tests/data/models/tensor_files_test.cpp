#include "data/models/tensor_files.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::read_file;
using testing::write_file;

/// Two files: a head and tensors of 5, 3 and 4 bytes, of which the first is followed by three zeros.
class TensorFilesTest : public ::testing::Test {
 protected:
  TensorFiles open(const std::string& identity = "model") {
    return {{{folder_ / "a", "HEAD", {{5, 3}, {3}}}, {folder_ / "b", "TOP", {{4}}}},
            folder_ / "journal",
            identity,
            [this](const std::string& line) { said_.push_back(line); }};
  }
  static void write(TensorFiles& files, const std::string& bytes) {
    files.write(std::as_bytes(std::span(bytes.data(), bytes.size())));
  }
  void write_rest(TensorFiles& files) {
    const std::vector<std::string> tensors = {"first", "2nd", "last"};
    while (files.next() < 3) {
      written_.push_back(files.next());
      write(files, tensors[static_cast<std::size_t>(files.next())]);
    }
    files.close();
  }
  void expect_whole() const {
    EXPECT_EQ(read_file(folder_ / "a"), std::string("HEADfirst\0\0\0"
                                                    "2nd",
                                                    15));
    EXPECT_EQ(read_file(folder_ / "b"), "TOPlast");
  }

  testing::TemporaryFolder folder_;
  std::vector<std::string> said_;
  std::vector<std::int64_t> written_;
};

TEST_F(TensorFilesTest, GoesOnAtTheTensorThatWasInterrupted) {
  {
    TensorFiles files = open();
    write(files, "fir");
    write(files, "st");
    write(files, "2");
  }
  EXPECT_THAT(said_, IsEmpty());
  TensorFiles files = open();
  EXPECT_THAT(said_, ElementsAre(HasSubstr("1 of 3 tensors are there")));
  write_rest(files);
  EXPECT_THAT(written_, ElementsAre(1, 2));
  expect_whole();
  files.forget();
  EXPECT_FALSE(fs::exists(folder_ / "journal"));
}

TEST_F(TensorFilesTest, NothingIsWrittenTwiceWhereAllIsThere) {
  {
    TensorFiles files = open();
    write_rest(files);
  }
  written_.clear();
  TensorFiles files = open();
  write_rest(files);
  EXPECT_THAT(written_, IsEmpty());
  expect_whole();
}

TEST_F(TensorFilesTest, WhatIsDamagedIsWrittenAgain) {
  struct Case {
    const char* file;
    std::string bytes;
    std::int64_t next;
  };
  for (const Case& c : {Case{"a",
                             std::string("HEADfirst\0\0\0"
                                         "2nX",
                                         15),
                             1},
                        Case{"a",
                             std::string("HEADfirXt\0\0\0"
                                         "2nd",
                                         15),
                             0},
                        Case{"a",
                             std::string("HEAXfirst\0\0\0"
                                         "2nd",
                                         15),
                             0},
                        Case{"a",
                             std::string("HEADfirst\0X\0"
                                         "2nd",
                                         15),
                             0},
                        Case{"a", "HEADfirst", 0}, Case{"b", "TOPlas", 2}, Case{"b", "", 2}}) {
    fs::remove(folder_ / "journal");
    {
      TensorFiles files = open();
      write_rest(files);
    }
    write_file(folder_ / c.file, c.bytes);
    TensorFiles files = open();
    EXPECT_EQ(files.next(), c.next) << c.bytes;
    write_rest(files);
    expect_whole();
  }
}

TEST_F(TensorFilesTest, ADamagedJournalIsNotTrusted) {
  {
    TensorFiles files = open();
    write_rest(files);
  }
  const std::string journal = read_file(folder_ / "journal");
  const std::size_t second = journal.find("\n1 ") + 1;
  for (const std::string& damaged :
       {journal.substr(0, second + 7), journal.substr(0, second) + "2" + journal.substr(second + 1),
        journal.substr(0, second + 3) + "z" + journal.substr(second + 4)}) {
    write_file(folder_ / "journal", damaged);
    TensorFiles files = open();
    EXPECT_EQ(files.next(), 1) << damaged;
  }
}

TEST_F(TensorFilesTest, AnotherModelBeginsAnew) {
  {
    TensorFiles files = open();
    write_rest(files);
  }
  TensorFiles files = open("another");
  EXPECT_EQ(files.next(), 0);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("beginning anew")));
  EXPECT_FALSE(fs::exists(folder_ / "b"));  // of the model before
  EXPECT_THAT(error_of([&] { open(); }), HasSubstr("another process writes it"));
}

TEST_F(TensorFilesTest, CountsBytes) {
  TensorFiles files = open();
  EXPECT_THAT(error_of([&] { write(files, "longer"); }), HasSubstr("tensor 0 of 5 bytes was given 6"));
  EXPECT_THAT(error_of([&] { files.close(); }), HasSubstr("0 of 3 tensors were written"));
  write_rest(files);
  EXPECT_THAT(error_of([&] { write(files, "x"); }), HasSubstr("all of its 3 tensors"));
  files.discard();
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

}  // namespace
}  // namespace limbeck::data
