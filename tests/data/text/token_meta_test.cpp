#include "data/text/token_meta.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/text/tokenize.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

class TokenMetaTest : public ::testing::Test {
 protected:
  TokenMetaTest() {
    write_file(folder_ / "text", "hello");
    tokenize_files({(folder_ / "text").string()}, *byte_tokenizer(), prefix());
  }
  std::string prefix() const { return (folder_ / "tokens").string(); }
  TemporaryFolder folder_;
};

TEST_F(TokenMetaTest, SaysWhichTokenizerItWas) {
  const auto meta = read_token_meta(TokenFile(prefix()));
  ASSERT_TRUE(meta.has_value());
  EXPECT_EQ(meta->vocabulary, 257);
  EXPECT_EQ(meta->size.tokens, 6);
  EXPECT_FALSE(meta->parse_special);
  EXPECT_TRUE(is_made_by(*meta, *byte_tokenizer()));
  TokenMeta other = *meta;
  ++other.fingerprint;
  EXPECT_FALSE(is_made_by(other, *byte_tokenizer()));
  other = *meta;
  other.vocabulary = 300;  // more than the tokenizer has
  EXPECT_FALSE(is_made_by(other, *byte_tokenizer()));
}

TEST_F(TokenMetaTest, OneOfAnotherTokenFileIsNone) {
  write_file(folder_ / "text", "another, longer");
  const std::string old = read_file(folder_ / "tokens.meta.json");
  tokenize_files({(folder_ / "text").string()}, *byte_tokenizer(), prefix());
  write_file(folder_ / "tokens.meta.json", old);
  EXPECT_EQ(read_token_meta(TokenFile(prefix())), std::nullopt);
  std::filesystem::remove(folder_ / "tokens.meta.json");
  EXPECT_EQ(read_token_meta(TokenFile(prefix())), std::nullopt);
}

TEST_F(TokenMetaTest, ADamagedOneIsNamed) {
  const auto error_with = [&](const char* patch) {
    auto document = nlohmann::json::parse(read_file(folder_ / "tokens.meta.json"));
    document.merge_patch(nlohmann::json::parse(patch));
    write_file(folder_ / "bad.meta.json", document.dump());
    for (const char* extension : {".bin", ".idx"})
      std::filesystem::copy_file(prefix() + extension, folder_ / (std::string("bad") + extension),
                                 std::filesystem::copy_options::overwrite_existing);
    return error_of([&] { read_token_meta(TokenFile((folder_ / "bad").string())); });
  };
  EXPECT_EQ(error_with("{}"), "");
  EXPECT_THAT(error_with(R"({"format": "x"})"), HasSubstr("bad.meta.json: format is \"x\""));
  EXPECT_THAT(error_with(R"({"tokenizer": {"fingerprint": "zz"}})"), HasSubstr("tokenizer.fingerprint is \"zz\""));
  EXPECT_THAT(error_with(R"({"tokens": -1})"), HasSubstr("tokens is -1"));
}

}  // namespace
}  // namespace limbeck::data
