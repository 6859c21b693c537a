#include "data/text/token_file.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/error.h"
#include "data/text/text_source.h"
#include "data/text/token_statistics.h"
#include "tests/support/packed_files.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using ::testing::ElementsAre;
using testing::error_of;
using testing::golden_path;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing::read_file;
using testing::write_file;
using testing::write_gzip;

const std::vector<Ids> documents = {{3, 1, 4, 0}, {}, {1, 5, 9, 2, 6, 0}, {0}};  // of make_token_file.py

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
  EXPECT_NE(error_of([] { TokenFileWriter("/proc/none/x", 10); }).find("/proc/none: this folder cannot be made"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "x.bin"));
}

TEST(TokenFileTest, AFingerprintIsOfLengthsAndTokens) {
  testing::TemporaryFolder folder;
  const auto fingerprint = [&](const char* name, const std::vector<Ids>& of) {
    const std::string prefix = folder.path() / name;
    TokenFileWriter writer(prefix, 100);
    for (const auto& document : of) writer.add(document);
    writer.finish();
    return TokenFile(prefix).fingerprint();
  };
  const std::uint64_t whole = fingerprint("a", documents);
  EXPECT_EQ(fingerprint("b", documents), whole);
  EXPECT_NE(fingerprint("c", {{3, 1, 4, 0}, {1, 5, 9, 2, 6, 0}, {}, {0}}), whole);
  EXPECT_NE(fingerprint("c", {{3, 1, 4, 0}, {}, {1, 5, 9, 2, 6, 0, 0}}), whole);
  EXPECT_NE(fingerprint("c", {{3, 1, 4, 0}, {}, {1, 5, 8, 2, 6, 0}, {0}}), whole);
  EXPECT_NE(fingerprint("none", {}), whole);
}

TEST(TokenFileTest, AFingerprintOfALargeFileIsOfSamplesFromEndToEnd) {
  testing::TemporaryFolder folder;
  const std::string prefix = folder.path() / "large";
  TokenFileWriter writer(prefix, 100);
  writer.add(Ids(35'000'000));  // 70 MB
  writer.finish();
  const std::uint64_t zeros = TokenFile(prefix).fingerprint();
  EXPECT_EQ(TokenFile(prefix).fingerprint(), zeros);
  for (const std::int64_t at : {0, 34'999'999}) {
    std::fstream bytes(prefix + ".bin", std::ios::binary | std::ios::in | std::ios::out);
    bytes.seekp(at * 2);
    bytes.put(1);
    bytes.close();
    EXPECT_NE(TokenFile(prefix).fingerprint(), zeros) << at;
    bytes.open(prefix + ".bin", std::ios::binary | std::ios::in | std::ios::out);
    bytes.seekp(at * 2);
    bytes.put(0);
  }
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

TEST(TokenFileTest, ReadsWhatMegatronWrote) {
  for (const auto& [name, type] : {std::pair{"uint8", "uint8"}, {"int64", "int64"}, {"modes", "int32"}}) {
    const TokenFile file(golden_path(std::string("token_file/megatron_") + name));
    EXPECT_STREQ(file.token_type(), type);
    EXPECT_EQ(file.num_sequences(), 5);
    ASSERT_EQ(file.num_documents(), 4);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(file.read(i), documents[i]) << name;
  }
  EXPECT_THAT(error_of([] { TokenFile file(golden_path("token_file/megatron_image")); }),
              HasSubstr("megatron_image.idx: sequence 2 has mode 1, expected 0 (text)"));
}

TEST(TokenFileTest, TokenTypesAreChecked) {
  testing::TemporaryFolder folder;
  const std::string prefix = folder.path() / "t";
  const std::string index = read_file(golden_path("token_file/megatron_int64.idx"));
  std::string tokens = read_file(golden_path("token_file/megatron_int64.bin"));
  for (const int code : {0, 6, 7, 9, 255}) {  // 6 and 7 are floating point
    std::string other = index;
    other[17] = static_cast<char>(code);
    write_file(prefix + ".idx", other);
    write_file(prefix + ".bin", tokens);
    EXPECT_THAT(error_of([&] { TokenFile file(prefix); }),
                HasSubstr("t.idx: token type has code " + std::to_string(code) + ", expected an integer's"));
  }
  tokens[5 * 8 + 4] = 1;  // token 1 of document 2 is 5 + 2^32
  write_file(prefix + ".idx", index);
  write_file(prefix + ".bin", tokens);
  const TokenFile file(prefix);
  EXPECT_EQ(file.read(0), documents[0]);
  EXPECT_THAT(error_of([&] { file.read(2); }), HasSubstr("t.bin: document 2 holds a token that is no 32-bit integer"));
  tokens[5 * 8 + 4] = 0;
  tokens[5 * 8 + 3] = 1;  // 5 + 2^24
  write_file(prefix + ".bin", tokens);
  EXPECT_THAT(error_of([&] { token_statistics(TokenFile(prefix)); }),
              HasSubstr("t.bin: document 2 holds token 16777221, expected 0 to 16777215"));
}

TEST(TokenFileTest, GoesOnWhereItWasFlushed) {
  testing::TemporaryFolder folder;
  const std::string prefix = folder.path() / "t";
  std::uint64_t digest = 0;
  {
    TokenFileWriter writer(prefix, 100);
    writer.add(documents[0]);
    writer.add(documents[1]);
    writer.flush();
    digest = writer.digest();
    writer.add(Ids{99, 99});  // is lost
  }
  EXPECT_TRUE(TokenFileWriter::can_continue(prefix, 100, {2, 4}, digest));
  EXPECT_FALSE(TokenFileWriter::can_continue(prefix, 100, {2, 4}, digest + 1));
  EXPECT_FALSE(TokenFileWriter::can_continue(prefix, 100, {1, 4}, digest));
  EXPECT_FALSE(TokenFileWriter::can_continue(prefix, 100, {9, 4}, digest));
  EXPECT_FALSE(TokenFileWriter::can_continue(prefix, 70000, {2, 4}, digest));
  TokenFileWriter writer(prefix, 100, {2, 4});
  EXPECT_EQ(writer.digest(), digest);
  writer.add(documents[2]);
  writer.add(documents[3]);
  writer.finish();
  EXPECT_EQ(read_file(prefix + ".bin"), read_file(golden_path("token_file/narrow.bin")));
  const TokenFile file(prefix);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(file.read(i), documents[i]);
  EXPECT_FALSE(std::filesystem::exists(prefix + ".bin.partial"));
  EXPECT_FALSE(std::filesystem::exists(prefix + ".idx.partial"));
}

TEST(TokenStatisticsTest, CountsWhatIsThere) {
  const TokenStatistics s = token_statistics(TokenFile(golden_path("token_file/narrow")));
  // Documents [3 1 4 0], [], [1 5 9 2 6 0], [0].
  EXPECT_THAT(s.length_histogram, ElementsAre(1, 1, 0, 2));  // none; 1; 2 to 3; 4 to 7
  EXPECT_EQ(s.shortest, 0);
  EXPECT_EQ(s.median, 1);
  EXPECT_EQ(s.p90, 4);
  EXPECT_EQ(s.p99, 4);
  EXPECT_EQ(s.longest, 6);
  EXPECT_DOUBLE_EQ(s.mean, 11 / 4.0);
  EXPECT_EQ(s.ids_used, 8);
  EXPECT_EQ(s.least_id, 0);
  EXPECT_EQ(s.greatest_id, 9);
  EXPECT_THAT(s.most_frequent, ElementsAre(Pair(0, 3), Pair(1, 2), Pair(2, 1), Pair(3, 1), Pair(4, 1), Pair(5, 1),
                                           Pair(6, 1), Pair(9, 1)));
  EXPECT_THAT(s.last, Pair(0, 3));
  EXPECT_EQ(s.last_in_all, 3);
}

TEST(TokenStatisticsTest, OfLittleIsLittle) {
  testing::TemporaryFolder folder;
  const std::string prefix = folder.path() / "t";
  TokenFileWriter(prefix, 10).finish();
  const TokenStatistics none = token_statistics(TokenFile(prefix));
  EXPECT_TRUE(none.length_histogram.empty() && none.most_frequent.empty());
  TokenFileWriter writer(prefix, 70000);
  writer.add(Ids(200000, 65536));  // more than one piece
  writer.finish();
  const TokenStatistics one = token_statistics(TokenFile(prefix));
  EXPECT_THAT(one.most_frequent, ElementsAre(Pair(65536, 200000)));
  EXPECT_THAT(one.last, Pair(65536, 1));
  EXPECT_EQ(one.median, 200000);
  EXPECT_EQ(one.length_histogram.size(), 19U);  // 2^17 to 2^18 - 1
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

}  // namespace
}  // namespace limbeck::data
