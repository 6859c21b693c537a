#include "data/files/unpacked_file.h"

#include <gmock/gmock.h>

#include "tests/support/packed_files.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using testing::write_file;

class GzipFile : public ::testing::Test {
 protected:
  static std::string member(const std::string& text) {
    const testing::TemporaryFolder folder;
    testing::write_gzip(folder / "a", text);
    return read_file(folder / "a");
  }
  std::string text_of(const std::string& bytes) {
    write_file(folder_ / "a.gz", bytes);
    UnpackedFile file((folder_ / "a.gz").string());
    std::string text, part(1000, '\0');
    while (const std::size_t got = file.read(part)) text += part.substr(0, got);
    return text;
  }
  std::string error(const std::string& bytes) {
    return error_of([&] { text_of(bytes); });
  }

  testing::TemporaryFolder folder_;
  const std::string one_ = member(std::string(5000, 'a'));
  const std::string two_ = member(std::string(700'000, 'b'));
};

TEST_F(GzipFile, HasMembersAndZerosBehindThem) {
  const std::string text = std::string(5000, 'a') + std::string(700'000, 'b') + std::string(5000, 'a');
  EXPECT_EQ(text_of(one_ + two_ + one_), text);
  EXPECT_EQ(text_of(one_ + two_ + one_ + std::string(100'000, '\0')), text);
  EXPECT_EQ(text_of(member("")), "");
}

TEST_F(GzipFile, WhatFollowsAMemberAndIsNoneIsNamed) {
  std::string damaged = two_;
  damaged[0] ^= 1;
  EXPECT_THAT(error(one_ + damaged + one_),
              AllOf(HasSubstr("a.gz: cannot be read after 5000 bytes"), HasSubstr("no gzip member")));
  EXPECT_THAT(error(one_ + "some text"), HasSubstr("after 5000 bytes of text: what follows is no gzip member"));
  EXPECT_THAT(error(one_ + testing::zstd_frame("x")), HasSubstr("what follows is no gzip member"));
  EXPECT_THAT(error(one_ + std::string(10, '\0') + two_), HasSubstr("bytes follow its zero bytes"));
  for (const std::size_t cut : {1U, 5U, 200U})
    EXPECT_THAT(error(one_ + two_.substr(0, two_.size() - cut)), HasSubstr("unexpected end of file")) << cut;
  EXPECT_THAT(error(one_ + two_.substr(0, 3)), HasSubstr("unexpected end of file"));
  std::string wrong_sum = one_;
  wrong_sum[wrong_sum.size() - 6] ^= 1;
  EXPECT_THAT(error(wrong_sum), HasSubstr("incorrect data check"));
}

}  // namespace
}  // namespace limbeck::data
