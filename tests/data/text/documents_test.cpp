#include "data/text/documents.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "data/text/document_hashes.h"
#include "tests/support/packed_files.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_file;

std::vector<std::int32_t> bytes_and_end(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  ids.push_back(256);
  return ids;
}

TEST(Documents, AreReadFromEveryKindOfTextInOrder) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "notes");
  write_file(folder / "notes/b.txt", "zwei");
  testing::write_gzip(folder / "notes/a.txt.gz", "\xc3\xa9\n");  // é: two bytes
  write_file(folder / "notes/empty.txt", "");
  testing::write_zstd(
      folder / "lines.jsonl.zst",
      "{\"body\": {\"of\": \"first\"}}\n\n{\"body\": {\"of\": \"\"}}\n{\"body\": {\"of\": \"<|endoftext|>\"}}\n");
  for (const int threads : {1, 3}) {
    const std::vector<Document> documents =
        read_documents({(folder / "lines.jsonl.zst").string(), (folder / "notes").string()}, *byte_tokenizer(),
                       {.threads = threads, .field = "body.of"});
    ASSERT_EQ(documents.size(), 4U);
    EXPECT_EQ(documents[0].name, (folder / "lines.jsonl.zst").string() + ":1");
    EXPECT_EQ(documents[1].name, (folder / "lines.jsonl.zst").string() + ":4");
    EXPECT_EQ(documents[2].name, (folder / "notes/a.txt.gz").string());
    EXPECT_EQ(documents[3].name, (folder / "notes/b.txt").string());
    EXPECT_EQ(documents[0].ids, bytes_and_end("first"));
    EXPECT_EQ(documents[1].ids, bytes_and_end("<|endoftext|>"));
    EXPECT_EQ(documents[2].ids, bytes_and_end("\xc3\xa9\n"));
    EXPECT_EQ(documents[2].bytes, 3);
    EXPECT_EQ(documents[3].bytes, 4);
  }
  const std::vector<Document> special = read_documents({(folder / "lines.jsonl.zst").string()}, *byte_tokenizer(),
                                                       {.field = "body.of", .parse_special = true});
  EXPECT_THAT(special[1].ids, ElementsAre(256));  // no second end
  EXPECT_EQ(special[1].bytes, 13);
}

TEST(Documents, IllFormedTextHasTheBytesOfWhatItBecomes) {
  const TemporaryFolder folder;
  write_file(folder / "bad.txt", "a\xff\xff\xc3\xa9");  // two U+FFFD, of three bytes each
  const std::vector<Document> documents = read_documents({(folder / "bad.txt").string()}, *byte_tokenizer(), {});
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(documents[0].ids, bytes_and_end("a\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9"));
  EXPECT_EQ(documents[0].bytes, 9);
  EXPECT_EQ(documents[0].repaired_sequences, 2);
}

TEST(Documents, WhatCannotBeReadIsNamed) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& path) {
    return error_of([&] { read_documents({(folder / path).string()}, *byte_tokenizer(), {}); });
  };
  EXPECT_THAT(error("gone"), HasSubstr("gone: is not there"));
  write_file(folder / "empty.txt", "");
  EXPECT_THAT(error("empty.txt"), HasSubstr("empty.txt: there is no text"));
  write_file(folder / "a.jsonl", "{\"text\": \"x\"}\n{\"other\": 1}\n");
  EXPECT_THAT(error("a.jsonl"), HasSubstr("a.jsonl:2: has no field \"text\""));
}

TEST(Documents, OfATokenFileHaveTheBytesOfTheirTokens) {
  const TemporaryFolder folder;
  const std::string prefix = (folder / "t").string();
  TokenFileWriter writer(prefix, 257);
  writer.add(bytes_and_end("abc"));
  writer.add(std::vector<std::int32_t>{});
  writer.add(std::vector<std::int32_t>{'x'});  // without an end, as other programs may write them
  writer.finish();
  const std::vector<Document> documents = documents_of(TokenFile(prefix), byte_tokenizer().get());
  ASSERT_EQ(documents.size(), 2U);
  EXPECT_EQ(documents[0].name, prefix + ":0");
  EXPECT_EQ(documents[0].ids, bytes_and_end("abc"));
  EXPECT_EQ(documents[0].bytes, 3);
  EXPECT_EQ(documents[1].name, prefix + ":2");
  EXPECT_EQ(documents[1].bytes, 1);
  EXPECT_EQ(documents_of(TokenFile(prefix), nullptr)[0].bytes, std::nullopt);
}

TEST(DocumentHashes, AreOfWhatADocumentSaysAndComeBack) {
  const TemporaryFolder folder;
  const auto tokenizer = byte_tokenizer();
  const std::vector<std::int32_t> abc = {'a', 'b', 'c'}, abd = {'a', 'b', 'd'};
  const std::uint64_t hash = document_hash(abc, *tokenizer);
  EXPECT_EQ(document_hash(bytes_and_end("abc"), *tokenizer), hash);
  EXPECT_NE(document_hash(abd, *tokenizer), hash);
  const auto file = folder / "documents";
  write_document_hashes(file, {.tokenizer = 7, .hashes = {3, 5, std::uint64_t{1} << 63U}});
  const DocumentHashes back = read_document_hashes(file);
  EXPECT_EQ(back.tokenizer, 7U);
  EXPECT_TRUE(back.contains(3) && back.contains(5) && back.contains(std::uint64_t{1} << 63U));
  EXPECT_FALSE(back.contains(4));
}

TEST(DocumentHashes, AFileThatIsNoneIsRefused) {
  const TemporaryFolder folder;
  const auto file = folder / "documents";
  write_document_hashes(file, {.tokenizer = 7, .hashes = {3, 5}});
  const std::string whole = testing::read_file(file);
  const auto error = [&](const std::string& bytes) {
    write_file(file, bytes);
    return error_of([&] { read_document_hashes(file); });
  };
  EXPECT_EQ(error(whole), "");
  EXPECT_THAT(error("x" + whole), HasSubstr("documents: does not begin with"));
  EXPECT_THAT(error(""), HasSubstr("documents: "));
  for (const std::size_t cut : {1, 8, 20, 32}) EXPECT_NE(error(whole.substr(0, whole.size() - cut)), "") << cut;
  EXPECT_THAT(error(whole + std::string(8, '\0')), HasSubstr("expected 16 and 8 for each document"));
  std::string falling = whole;
  std::swap(falling[falling.size() - 8], falling[falling.size() - 16]);
  EXPECT_THAT(error(falling), HasSubstr("hash 1 is not above the one before it"));
}

}  // namespace
}  // namespace limbeck::data
