#include "data/text/tokenize.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fcntl.h>

#include <algorithm>
#include <thread>

#include "core/error.h"
#include "data/files/ordered_work.h"
#include "data/text/token_hash.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "tests/support/packed_files.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

Ids all_tokens(const std::string& prefix) {
  const TokenFile file(prefix);
  Ids all;
  for (std::int64_t i = 0; i < file.num_documents(); ++i) {
    const Ids ids = file.read(i);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return all;
}

std::string bytes_of(const std::string& prefix) {
  return read_file(prefix + ".bin") + "|" + read_file(prefix + ".idx");
}

/// Plain files, gzip, zstd and JSON lines of several blocks.
class TokenizeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(text());
    for (int i = 0; i < 40; ++i) {
      const std::string document(static_cast<std::size_t>(i * 13 % 50), static_cast<char>('a' + i % 26));
      const std::string path = text() / fmt::format("{:03}", i);
      if (i % 2 == 0)
        write_file(path, document);
      else
        testing::write_gzip(path, document);
      add(document);
    }
    write_file(text() / "040", "a\xff\xfe");
    for (const int id : {0x61, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 256}) expected_.push_back(id);
    std::string lines;
    for (int i = 0; i < 6000; ++i) {
      const std::string document(static_cast<std::size_t>(i * 7919 % 1201), static_cast<char>('a' + i % 26));
      lines += "{\"n\": 1, \"body\": {\"text\": \"" + document + "\"}}\n";
      add(document);
    }
    testing::write_zstd(text() / "041.jsonl.zst", lines);
    for (int i = 0; i < 3; ++i) add("x");
    write_file(text() / "042.jsonl",
               "{\"body\": {\"text\": \"x\"}}\n\n{\"body\": {\"text\": \"x\"}}\n{\"body\": {\"text\": \"x\"}}");
  }
  void add(const std::string& document) {
    if (document.empty()) return;
    expected_.insert(expected_.end(), document.begin(), document.end());
    expected_.push_back(256);
    ++num_documents_;
  }
  std::filesystem::path text() const { return folder_ / "text"; }
  std::string prefix(const std::string& name) const { return folder_ / ("out/" + name); }
  TokenizeOptions options(int threads = 2) const { return {.threads = threads, .field = "body.text"}; }
  TokenizeCounts tokenize(const std::string& name, const TokenizeOptions& how) const {
    return tokenize_files({text()}, *byte_tokenizer(), prefix(name), how);
  }
  /// Runs it in another process that kills itself with signal 9 after so many steps; whether it was killed.
  bool killed_after(int steps, const std::string& name, int threads) const {
    const pid_t child = ::fork();
    if (child == 0) {
      TokenizeOptions how = options(threads);
      how.save_every = std::chrono::milliseconds(0);
      how.progress = [&](const TokenizeCounts&, std::int64_t, std::int64_t) {
        if (steps-- == 0) ::kill(::getpid(), SIGKILL);
      };
      tokenize(name, how);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }

  TemporaryFolder folder_;
  Ids expected_;
  std::int64_t num_documents_ = 1;  // the ill-formed one
};

TEST_F(TokenizeTest, GivesTheSameWithAnyThreads) {
  const auto total = [&] {
    std::int64_t bytes = 0;
    for (const auto& path : list_text_files({text()})) bytes += describe_input(path).bytes;
    return bytes;
  }();
  for (const int threads : {1, 3, 8}) {
    const std::string name = std::to_string(threads);
    TokenizeOptions how = options(threads);
    std::int64_t last = -1;
    how.progress = [&](const TokenizeCounts&, std::int64_t done, std::int64_t num_bytes) {
      EXPECT_GE(done, last);
      EXPECT_EQ(num_bytes, total);
      last = done;
    };
    const auto counts = tokenize(name, how);
    EXPECT_EQ(last, total);
    EXPECT_EQ(counts.documents, num_documents_);
    EXPECT_EQ(counts.tokens, static_cast<std::int64_t>(expected_.size()));
    EXPECT_EQ(counts.bytes, counts.tokens - counts.documents - 4);  // two bytes became two characters of three
    EXPECT_EQ(counts.encode.repaired_sequences, 2);
    EXPECT_EQ(all_tokens(prefix(name)), expected_);
    EXPECT_EQ(bytes_of(prefix(name)), bytes_of(prefix("1")));
  }
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out"))
    files.push_back(entry.path().filename());
  std::sort(files.begin(), files.end());
  EXPECT_THAT(files, ElementsAre("1.bin", "1.idx", "1.meta.json", "3.bin", "3.idx", "3.meta.json", "8.bin", "8.idx",
                                 "8.meta.json"));
}

TEST(TokenizeStarts, EveryDocumentBeginsAndEnds) {
  const TemporaryFolder folder;
  const auto tokenizer = sentencepiece_from_file(testing::golden_path("sentencepiece/bpe.model"));
  ASSERT_EQ(tokenizer->start_of_text_id(), 1);
  write_file(folder / "a.jsonl", "{\"text\": \"The still\"}\n{\"text\": \"\"}\n{\"text\": \"drips\"}\n");
  write_file(folder / "b", "slowly");
  tokenize_files({folder.path()}, *tokenizer, folder / "out/t");
  const TokenFile file(folder / "out/t");
  ASSERT_EQ(file.num_documents(), 3);
  for (const auto& [document, text] : {std::pair{0, "The still"}, {1, "drips"}, {2, "slowly"}}) {
    Ids expected = tokenizer->encode(text);
    expected.insert(expected.begin(), 1);
    expected.push_back(tokenizer->end_of_text_id());
    EXPECT_EQ(file.read(document), expected) << text;
  }
}

TEST_F(TokenizeTest, KilledAndContinuedGivesTheSameBytes) {
  tokenize("whole", options());
  for (const int threads : {1, 3}) {
    const std::string name = "killed" + std::to_string(threads);
    int kills = 0;
    std::vector<std::string> notices;
    for (const int steps : {0, 1, 5, 28, 8, 1, 1}) {
      if (!killed_after(steps, name, threads)) break;
      ++kills;
      EXPECT_FALSE(std::filesystem::exists(prefix(name) + ".idx"));
    }
    EXPECT_EQ(kills, 7);
    TokenizeOptions how = options(threads);
    how.notice = [&](const std::string& line) { notices.push_back(line); };
    std::int64_t first = -1;
    how.progress = [&](const TokenizeCounts&, std::int64_t done, std::int64_t) { first = first < 0 ? done : first; };
    const auto counts = tokenize(name, how);
    EXPECT_EQ(counts.documents, num_documents_);  // of all
    EXPECT_GT(first, 0);
    EXPECT_THAT(notices, ElementsAre(HasSubstr("going on after")));
    EXPECT_EQ(bytes_of(prefix(name)), bytes_of(prefix("whole")));
  }
}

TEST_F(TokenizeTest, InputsThatChangedAreNamed) {
  std::vector<std::string> notices;
  TokenizeOptions how = options(1);
  how.notice = [&](const std::string& line) { notices.push_back(line); };
  // A later file is another one: nothing of it was read, so nothing is lost.
  ASSERT_TRUE(killed_after(20, "later", 1));
  write_file(text() / "042.jsonl", "{\"body\": {\"text\": \"y\"}}");
  tokenize("later", how);
  tokenize("later_whole", options());
  EXPECT_THAT(notices, ElementsAre(HasSubstr("going on after")));
  EXPECT_EQ(bytes_of(prefix("later")), bytes_of(prefix("later_whole")));
  // One that was read has changed: on from before it.
  notices.clear();
  ASSERT_TRUE(killed_after(30, "earlier", 1));
  write_file(text() / "010", "other");
  tokenize("earlier", how);
  tokenize("earlier_whole", options());
  EXPECT_THAT(notices, ElementsAre(HasSubstr((text() / "010").string() + ": has changed since"),
                                   HasSubstr("going on after 9 documents")));
  EXPECT_EQ(bytes_of(prefix("earlier")), bytes_of(prefix("earlier_whole")));
  // The one that it was in, and the first.
  notices.clear();
  ASSERT_TRUE(killed_after(43, "within", 1));
  testing::write_zstd(text() / "041.jsonl.zst", "{\"body\": {\"text\": \"short\"}}\n");
  write_file(text() / "001", "first");
  tokenize("within", how);
  tokenize("within_whole", options());
  EXPECT_THAT(notices, ElementsAre(HasSubstr((text() / "001").string() + ": has changed")));
  EXPECT_EQ(bytes_of(prefix("within")), bytes_of(prefix("within_whole")));
  // Another field.
  notices.clear();
  ASSERT_TRUE(killed_after(30, "field", 1));
  std::filesystem::remove(text() / "041.jsonl.zst");
  std::filesystem::remove(text() / "042.jsonl");
  how.field = "other";
  tokenize("field", how);
  EXPECT_THAT(notices, ElementsAre(HasSubstr("is of another tokenizer, format, field or version: beginning anew")));
}

TEST_F(TokenizeTest, DamagedLeftoversAreNotTrusted) {
  tokenize("whole", options());
  std::vector<std::string> notices;
  TokenizeOptions how = options(1);
  how.notice = [&](const std::string& line) { notices.push_back(line); };
  const auto leftover = [&](const std::string& name, const auto& damage) {
    ASSERT_TRUE(killed_after(30, name, 1));
    damage(prefix(name));
    tokenize(name, how);
    EXPECT_EQ(bytes_of(prefix(name)), bytes_of(prefix("whole"))) << name;
  };
  leftover("short", [](const std::string& p) { std::filesystem::resize_file(p + ".bin.partial", 3); });
  EXPECT_THAT(notices, ElementsAre(HasSubstr("short.bin.partial: is damaged, it is not what")));
  const auto flip = [](const std::string& file, std::size_t at) {
    std::string bytes = read_file(file);
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    write_file(file, bytes);
  };
  for (const char* part : {".bin.partial", ".idx.partial"}) {
    notices.clear();
    leftover(std::string("flipped") + part, [&](const std::string& p) { flip(p + part, 8); });
    EXPECT_THAT(notices, ElementsAre(HasSubstr(".bin.partial: is damaged, it is not what"))) << part;
  }
  // A digit of a line: what the lines before it say holds.
  notices.clear();
  leftover("digit", [](const std::string& p) {
    std::string journal = read_file(p + ".journal");
    const std::size_t at = journal.rfind("\"files\":") + 8;
    journal[at] = journal[at] == '9' ? '8' : '9';
    write_file(p + ".journal", journal);
  });
  EXPECT_THAT(notices, ElementsAre(HasSubstr("digit.journal: is damaged after"), HasSubstr("going on after")));
  leftover("torn", [](const std::string& p) {
    const std::string journal = read_file(p + ".journal");
    write_file(p + ".journal", journal.substr(0, journal.size() - 7));
  });
  leftover("rubbish",
           [](const std::string& p) { write_file(p + ".journal", read_file(p + ".journal") + "{\"files\": -1}\n"); });
  leftover("foreign", [](const std::string& p) { write_file(p + ".journal", "rubbish"); });
  leftover("longer",
           [](const std::string& p) { write_file(p + ".bin.partial", read_file(p + ".bin.partial") + "123"); });
}

TEST_F(TokenizeTest, AnErrorKeepsWhatWasDone) {
  write_file(text() / "042.jsonl", "{\"body\": {\"text\": \"x\"}}\n{\"body\": 3}\n");
  const std::string where = (text() / "042.jsonl").string();
  for (const int threads : {1, 3}) {
    const std::string name = "bad" + std::to_string(threads);
    EXPECT_THAT(error_of([&] { tokenize(name, options(threads)); }),
                HasSubstr(where + ":2: the field \"body.text\" is a number, expected a string"));
  }
  write_file(text() / "042.jsonl", "{\"body\": {\"text\": \"mended\"}}\n");
  std::vector<std::string> notices;
  TokenizeOptions how = options();
  how.notice = [&](const std::string& line) { notices.push_back(line); };
  tokenize("bad3", how);
  EXPECT_THAT(notices, ElementsAre(HasSubstr("going on after")));
  tokenize("mended", options());
  EXPECT_EQ(bytes_of(prefix("bad3")), bytes_of(prefix("mended")));
}

TEST_F(TokenizeTest, BadInputIsRefusedByName) {
  const auto tokenizer = byte_tokenizer();
  const auto message = [&](const std::string& path, const TokenizeOptions& how) {
    return error_of([&] { tokenize_files({path}, *tokenizer, prefix("x"), how); });
  };
  EXPECT_THAT(message(folder_ / "none", {}), HasSubstr("none: is not there"));
  EXPECT_THAT(message(text(), {.threads = 0}), HasSubstr("0 threads"));
  EXPECT_THAT(message(text(), {.field = "a..b"}), HasSubstr("the field is 'a..b'"));
  EXPECT_THAT(message(text() / "020", {.format = TextFormat::JsonLines}), HasSubstr("020:1: is not JSON at byte 1"));
  EXPECT_THAT(message(text() / "003", {.max_document_bytes = 10}), HasSubstr("003: holds more than 10 bytes"));
  write_file(folder_ / "a.json", "{}");
  EXPECT_THAT(message(folder_ / "a.json", {}), HasSubstr("a.json: may be JSON lines or plain text"));
  write_file(folder_ / "empty", "");
  EXPECT_THAT(message(folder_ / "empty", {}), HasSubstr("there is no text in 1 files"));
  write_file(folder_ / "empty.jsonl", "\n{\"text\": \"\"}\n");
  EXPECT_THAT(message(folder_ / "empty.jsonl", {}), HasSubstr("there is no text in 1 files"));
  EXPECT_THAT(error_of([&] { tokenize_files({text()}, *tokenizer, "/proc/none/x", options()); }),
              HasSubstr("/proc/none: this folder cannot be made"));
  EXPECT_FALSE(std::filesystem::exists(prefix("x") + ".journal"));
  EXPECT_FALSE(std::filesystem::exists(prefix("x") + ".bin.partial"));
}

TEST_F(TokenizeTest, AKeptFileIsMadeAgainWhereItIsDamaged) {
  TokenizeOptions how = options();
  how.is_kept = true;
  EXPECT_EQ(tokenize("kept", how).documents, num_documents_);
  EXPECT_EQ(find_token_damage(prefix("kept")), std::nullopt);
  EXPECT_EQ(tokenize("kept", how).documents, 0);  // it is there
  const auto whole = bytes_of(prefix("kept"));
  const auto damaged = [&](const std::string& file, const std::string& bytes) {
    write_file(file, bytes);
    EXPECT_THAT(find_token_damage(prefix("kept")).value_or(""), HasSubstr(file));
    EXPECT_EQ(tokenize("kept", how).documents, num_documents_);
    EXPECT_EQ(bytes_of(prefix("kept")), whole);
    EXPECT_EQ(find_token_damage(prefix("kept")), std::nullopt);
  };
  for (const char* extension : {".bin", ".idx", ".xxh3"}) {
    const std::string file = prefix("kept") + extension;
    std::string bytes = read_file(file);
    damaged(file, bytes.substr(0, bytes.size() / 2));
    damaged(file, "");
    std::filesystem::remove(file);
    EXPECT_THAT(find_token_damage(prefix("kept")).value_or(""), HasSubstr(file + ": is missing"));
    EXPECT_EQ(tokenize("kept", how).documents, num_documents_);
  }
  for (const char* extension : {".bin", ".idx"}) {
    std::string bytes = read_file(prefix("kept") + extension);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    damaged(prefix("kept") + extension, bytes);
  }
}

TEST_F(TokenizeTest, TwoAtOnceWorkOneAfterTheOther) {
  std::vector<std::string> notices;
  TokenizeOptions how = options();
  how.is_kept = true;
  EXPECT_EQ(tokenize("shared", how).documents, num_documents_);
  how.notice = [&](const std::string& line) { notices.push_back(line); };
  const int other = ::open((prefix("shared") + ".journal").c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  std::jthread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ::close(other);
  });
  EXPECT_EQ(tokenize("shared", how).documents, 0);
  EXPECT_THAT(notices, ElementsAre(HasSubstr("waiting for another process")));
  EXPECT_FALSE(std::filesystem::exists(prefix("shared") + ".journal"));
}

TEST(OrderedWorkTest, WritesInOrderAndThrowsTheFirstError) {
  for (const int threads : {1, 2, 5}) {
    for (const int bad : {-1, 0, 17, 99}) {
      int next = 0;
      std::vector<int> written;
      OrderedWork<int, int> work;
      work.most_cost = 7;
      work.read = [&]() -> std::optional<int> { return next < 100 ? std::optional(next++) : std::nullopt; };
      work.work = [&](int& job) {
        std::this_thread::sleep_for(std::chrono::microseconds(job * 37 % 11 * 20));
        if (bad >= 0 && job >= bad) core::fail("job {}", job);
        return 2 * job;
      };
      work.write = [&](int&& result) { written.push_back(result); };
      const std::string error = error_of([&] { work.run(threads); });
      EXPECT_EQ(error, bad < 0 ? "" : "job " + std::to_string(bad));
      ASSERT_EQ(written.size(), bad < 0 ? 100U : static_cast<std::size_t>(bad));
      for (std::size_t i = 0; i < written.size(); ++i) ASSERT_EQ(written[i], static_cast<int>(2 * i));
    }
  }
  OrderedWork<int, int> failing;
  failing.read = []() -> std::optional<int> { core::fail("no input"); };
  EXPECT_EQ(error_of([&] { failing.run(3); }), "no input");
  OrderedWork<int, int> nothing;
  nothing.read = []() -> std::optional<int> { return std::nullopt; };
  nothing.run(3);
  OrderedWork<int, int> full;
  full.read = []() -> std::optional<int> { return 1; };
  full.work = [](int& job) { return job; };
  full.write = [](int&&) { core::fail("no room"); };
  EXPECT_EQ(error_of([&] { full.run(3); }), "no room");
}

}  // namespace
}  // namespace limbeck::data
