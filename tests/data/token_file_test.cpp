#include "data/token_file.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>

#include "data/text_source.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using testing::error_of;
using testing::golden_path;
using testing::read_file;
using testing::write_file;

const std::vector<Ids> documents = {{3, 1, 4, 0}, {}, {1, 5, 9, 2, 6, 0}, {0}};  // of make_token_file.py

void write_gzip(const std::string& path, const std::string& text) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
}

TEST(TokenFileTest, ReadsWhatNumpyWrote) {
  for (const char* name : {"token_file/narrow", "token_file/wide.bin", "token_file/wide.idx"}) {
    const TokenFile file(golden_path(name));
    ASSERT_EQ(file.num_documents(), 4);
    EXPECT_EQ(file.num_tokens(), 11);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(file.read(i), documents[i]) << name;
    Ids part(3);
    file.read(2, 2, 3, part.data());
    EXPECT_EQ(part, (Ids{9, 2, 6}));
    EXPECT_THROW(file.read(2, 4, 3, part.data()), core::Error);
    EXPECT_THROW(file.read(4), core::Error);
  }
}

TEST(TokenFileTest, WritesBytesAsNumpyDoes) {
  testing::TemporaryFolder folder;
  for (const auto& [name, vocabulary] : {std::pair{"narrow", 65499}, std::pair{"wide", 65500}}) {
    const std::string prefix = folder.path() / "sub" / name;
    TokenFileWriter writer(prefix, vocabulary);
    for (const auto& document : documents) writer.add(document);
    EXPECT_FALSE(std::filesystem::exists(prefix + ".bin"));
    writer.finish();
    EXPECT_EQ(read_file(prefix + ".bin"), read_file(golden_path(std::string("token_file/") + name + ".bin")));
    const TokenFile file(prefix);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(file.read(i), documents[i]);
    EXPECT_EQ(static_cast<unsigned char>(read_file(prefix + ".idx")[17]), vocabulary < 65500 ? 8 : 4);
  }
  EXPECT_NE(error_of([&] { TokenFileWriter(folder.path() / "x", 10).add(Ids{10}); }).find("token 10 is outside"),
            std::string::npos);
  EXPECT_NE(error_of([] { TokenFileWriter("/proc/none/x", 10); }).find("/proc/none/x"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "x.bin"));
}

TEST(TokenFileTest, BrokenFilesAreRefusedByName) {
  testing::TemporaryFolder folder;
  const std::string prefix = folder.path() / "t";
  const std::string index = read_file(golden_path("token_file/narrow.idx"));
  const std::string tokens = read_file(golden_path("token_file/narrow.bin"));
  const auto refused = [&](const std::string& idx, const std::string& bin) {
    write_file(prefix + ".idx", idx);
    write_file(prefix + ".bin", bin);
    const std::string message = error_of([&] { TokenFile file(prefix); });
    EXPECT_TRUE(message.empty() || message.starts_with(prefix)) << message;
    return !message.empty();
  };
  EXPECT_FALSE(refused(index, tokens));
  for (std::size_t size = 0; size < index.size(); ++size) EXPECT_TRUE(refused(index.substr(0, size), tokens)) << size;
  EXPECT_TRUE(refused(index + '\0', tokens));
  EXPECT_TRUE(refused(index, tokens.substr(1)));
  EXPECT_TRUE(refused(index, tokens + "  "));
  for (std::size_t at = 0; at < index.size(); ++at)
    for (const int mask : {0x01, 0x80}) {
      std::string bytes = index;
      bytes[at] = static_cast<char>(bytes[at] ^ mask);
      const bool is_bound = at >= index.size() - 5 * 8;  // of documents: another cut may be as good
      EXPECT_TRUE(refused(bytes, tokens) || is_bound) << at;
    }
}

TEST(TextSource, ListsSortedWithoutHidden) {
  testing::TemporaryFolder folder;
  const auto at = [&](const char* name) { return (folder.path() / name).string(); };
  std::filesystem::create_directories(at("b/.git"));
  for (const char* name : {"b/2", "b/10", "a", ".hidden", "b/.git/x"}) write_file(at(name), "text");
  EXPECT_EQ(list_text_files({folder.path()}), (std::vector<std::string>{at("a"), at("b/10"), at("b/2")}));
  EXPECT_EQ(list_text_files({at("b"), at(".hidden")}),
            (std::vector<std::string>{at("b/10"), at("b/2"), at(".hidden")}));
  EXPECT_NE(error_of([&] { list_text_files({at("none")}); }).find(at("none")), std::string::npos);
  std::filesystem::create_directories(at("empty"));
  EXPECT_NE(error_of([&] { list_text_files({at("empty")}); }).find("no text files"), std::string::npos);
}

TEST(TextSource, ReadsGzipAndRefusesBrokenOnes) {
  testing::TemporaryFolder folder;
  const std::string path = folder.path() / "a.gz";
  std::string text;
  for (int i = 0; i < 100000; ++i) text += std::to_string(i * 7919 % 10007);
  write_gzip(path, text);
  EXPECT_EQ(read_document(path), text);
  EXPECT_NE(error_of([&] { read_document(path, 1000); }).find(path + ": holds more than 1000 bytes"),
            std::string::npos);
  const std::string packed = read_file(path);
  for (const std::size_t size : {packed.size() / 2, packed.size() - 1}) {
    write_file(path, packed.substr(0, size));
    EXPECT_NE(error_of([&] { read_document(path); }).find(path), std::string::npos) << size;
  }
  write_file(path, "plain");
  EXPECT_EQ(read_document(path), "plain");
  write_file(path, "");
  EXPECT_EQ(read_document(path), "");
}

TEST(TextSource, TokenizesTheSameWithAnyThreads) {
  testing::TemporaryFolder folder;
  std::filesystem::create_directories(folder.path() / "text");
  const auto tokenizer = byte_tokenizer();
  Ids all;
  for (int i = 0; i < 70; ++i) {
    const std::string text(static_cast<std::size_t>(i * 13 % 50), static_cast<char>('a' + i % 26));
    const std::string path = folder.path() / "text" / fmt::format("{:03}", i);
    if (i % 2 == 0)
      write_file(path, text);
    else
      write_gzip(path, text);
    all.insert(all.end(), text.begin(), text.end());
    if (!text.empty()) all.push_back(256);
  }
  write_file(folder.path() / "text" / "zzz", "a\xff\xfe");
  for (const int id : {0x61, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 256}) all.push_back(id);
  for (const int threads : {1, 3}) {
    const std::string prefix = folder.path() / "out";
    std::int64_t files = 0;
    TokenizeOptions options{.threads = threads};
    options.progress = [&](const TokenizeCounts&, std::int64_t done, std::int64_t total) {
      files = done;
      EXPECT_EQ(total, 71);
    };
    const auto counts = tokenize_files({folder.path() / "text"}, *tokenizer, prefix, options);
    EXPECT_EQ(files, 71);
    EXPECT_EQ(counts.documents, 69);  // i = 0 and 50 are empty
    EXPECT_EQ(counts.tokens, static_cast<std::int64_t>(all.size()));
    EXPECT_EQ(counts.encode.repaired_sequences, 2);
    const TokenFile file(prefix);
    Ids read;
    for (std::int64_t i = 0; i < file.num_documents(); ++i) {
      const Ids ids = file.read(i);
      read.insert(read.end(), ids.begin(), ids.end());
    }
    EXPECT_EQ(read, all);
  }
}

}  // namespace
}  // namespace limbeck::data
