#include "data/tokenizers/tokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "data/tokenizers/pretokenizer.h"
#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "data/tokenizers/unicode.h"
#include "tests/support/golden_lines.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;
using testing::error_of;
using testing::from_hex;
using testing::golden_lines;

/// GPT-2-like, small: all bytes but 0x04, a few merges, one special and one user token.
BpeDescription small_description() {
  BpeDescription d;
  d.pretokenizer = pretokenizer_rules("gpt-2", "test").stages;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (byte != 4) d.tokens.push_back(alphabet_of_bytes({&c, 1}));
  }
  for (const char* token : {"aa", "ab", "aab", "Ġa"}) d.tokens.emplace_back(token);
  d.merges = {"a a", "a b", "aa b", "Ġ a"};
  d.tokens.emplace_back("<|end|>");
  d.tokens.emplace_back("<|end|>x");
  d.tokens.emplace_back("[tool]");
  const auto size = static_cast<std::int32_t>(d.tokens.size());
  d.added = {{.id = size - 3, .special = true}, {.id = size - 2, .special = true}, {.id = size - 1}};
  d.eos = size - 3;
  d.chat_template = "{{ messages }}";
  return d;
}

std::vector<std::string> names(const Tokenizer& tokenizer, const Ids& ids) {
  std::vector<std::string> result;
  for (const auto id : ids) result.push_back(tokenizer.decode({&id, 1}));
  return result;
}

TEST(Unicode, RepairsAsPythonDoes) {
  int changed = 0;
  for (const auto& line : golden_lines("tokenizer/repair.jsonl.gz")) {
    const std::string bytes = from_hex(line["bytes"]);
    const Repaired repaired = repair_utf8(bytes);
    ASSERT_EQ(repaired.utf8, from_hex(line["repaired"])) << line;
    ASSERT_EQ(repaired.num_replaced, line["replaced"].get<std::int64_t>()) << line;
    changed += repaired.num_replaced > 0 ? 1 : 0;
  }
  EXPECT_GT(changed, 300);
}

TEST(Unicode, AlphabetGoesBothWays) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(bytes_of_alphabet(alphabet_of_bytes(all)), all);
  EXPECT_EQ(alphabet_of_bytes("\n a"), "ĊĠa");  // as in GPT-2's vocab.json
  EXPECT_EQ(bytes_of_alphabet("▁"), std::nullopt);
  EXPECT_EQ(bytes_of_alphabet("\xff"), std::nullopt);
}

TEST(PretokenizerTest, CutsAsTheOracleDoes) {
  std::string pre;
  std::unique_ptr<Pretokenizer> pretokenizer;
  Pretokenizer::Scratch scratch;
  int kinds = 0;
  for (const auto& line : golden_lines("tokenizer/words.jsonl.gz")) {
    if (line["pre"] != pre) {
      pre = line["pre"];
      pretokenizer = std::make_unique<Pretokenizer>(pretokenizer_rules(pre, "test").stages, "test");
      scratch = pretokenizer->scratch();
      ++kinds;
    }
    std::vector<std::string> words;
    pretokenizer->split(from_hex(line["text"]), scratch, [&](std::string_view word) { words.emplace_back(word); });
    std::vector<std::string> expected;
    for (const auto& word : line["words"]) expected.push_back(from_hex(word));
    ASSERT_EQ(words, expected) << pre << " " << line["text"];
  }
  EXPECT_EQ(kinds, 4);
}

TEST(PretokenizerTest, UnknownRulesAreRefusedByName) {
  const std::string message = error_of([] { pretokenizer_rules("falcon", "model.gguf: tokenizer.ggml.pre"); });
  EXPECT_NE(message.find("model.gguf: tokenizer.ggml.pre is falcon, expected one of smollm, starcoder"),
            std::string::npos)
      << message;
}

TEST(PretokenizerTest, VeryLongWordsAndSpaces) {
  const Pretokenizer pretokenizer(pretokenizer_rules("llama-bpe", "test").stages, "test");
  auto scratch = pretokenizer.scratch();
  std::vector<std::size_t> sizes;
  const auto cut = [&](const std::string& text) {
    sizes.clear();
    pretokenizer.split(text, scratch, [&](std::string_view word) { sizes.push_back(word.size()); });
    return sizes;
  };
  const std::size_t n = 3'000'000;
  EXPECT_EQ(cut(std::string(n, 'a')), (std::vector<std::size_t>{n}));
  EXPECT_EQ(cut(std::string(n, ' ') + "x"), (std::vector<std::size_t>{n - 1, 2}));
  EXPECT_EQ(cut(std::string(n, '=')), (std::vector<std::size_t>{n}));
}

TEST(BpeTokenizerTest, MergesInOrderOfRankFromTheLeft) {
  const BpeTokenizer t(small_description(), "small");
  const auto tokens = [&](std::string_view text, bool special = false) {
    return names(t, t.encode(text, special, nullptr));
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(tokens(""), Names{});
  EXPECT_EQ(tokens("aaab"), (Names{"aa", "ab"}));
  EXPECT_EQ(tokens("aab"), (Names{"aab"}));
  EXPECT_EQ(tokens("aaa a"), (Names{"aa", "a", " a"}));
  EXPECT_EQ(tokens("a\x04"), (Names{"a"}));  // no token for 0x04
  EXPECT_EQ(tokens("<|end|>x"), (Names{"<", "|", "e", "n", "d", "|", ">", "x"}));
  EXPECT_EQ(tokens("<|end|>x", true), (Names{"<|end|>x"}));  // the longest
  EXPECT_EQ(tokens("a<|end|>b<|end|>", true), (Names{"a", "<|end|>", "b", "<|end|>"}));
  EXPECT_EQ(tokens("a[tool]b"), (Names{"a", "[tool]", "b"}));
  EncodeCounts counts;
  t.encode(
      "a\x04"
      "b\x04\x04 \xff\xc3",
      false, &counts);
  t.encode("a\x04", false, &counts);
  EXPECT_EQ(counts.dropped_bytes, 4);
  EXPECT_EQ(counts.repaired_sequences, 2);
  EXPECT_EQ(t.end_of_text_id(), t.eos_id());  // no <|endoftext|>
  EXPECT_THROW((void)t.decode(Ids{-1}), core::Error);
  EXPECT_THROW((void)t.decode(Ids{static_cast<std::int32_t>(t.vocabulary_size())}), core::Error);
}

TEST(BpeTokenizerTest, BrokenDescriptionsAreRefusedByName) {
  const auto refused = [](auto change) {
    BpeDescription d = small_description();
    change(d);
    return error_of([&] { BpeTokenizer(d, "f.gguf"); });
  };
  using D = BpeDescription;
  EXPECT_NE(refused([](D& d) { d.tokens[3] = d.tokens[7]; }).find("f.gguf: tokens 3 and 7"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.tokens[3] = "\xff"; }).find("token 3 is not valid UTF-8"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.merges[1] = "ab"; }).find("merge 1 is 'ab'"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.merges[1] = "a c"; }).find("merge 1 is 'a c'"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.eos = 1000; }).find("end-of-sequence id is 1000"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.added[0].id = -1; }).find("added token's id is -1"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.start_of_text = 1000; }).find("start-of-text id is 1000"), std::string::npos);
  EXPECT_NE(refused([](D& d) { d.pretokenizer[0].pattern = "("; }).find("f.gguf: the regular expression ("),
            std::string::npos);
}

TEST(BpeTokenizerTest, JsonRoundTrip) {
  const BpeTokenizer t(small_description(), "small");
  const auto same = tokenizer_from_json(t.to_json(), "checkpoint");
  EXPECT_EQ(dynamic_cast<const BpeTokenizer&>(*same).description(), t.description());
  EXPECT_EQ(same->encode("aab <|end|>", true), t.encode("aab <|end|>", true, nullptr));
  for (const char* bad : {"", "{", "[]", "{}", "{\"format\":\"limbeck tokenizer 1\"}",
                          "{\"format\":\"limbeck tokenizer 2\"}", "{\"format\":3}"})
    EXPECT_NE(error_of([&] { tokenizer_from_json(bad, "step_3"); }).find("step_3: "), std::string::npos) << bad;
}

TEST(BpeTokenizerTest, FirstFormatOfCheckpointsIsRead) {
  const BpeTokenizer t(small_description(), "small");
  json old = {{"format", "limbeck tokenizer 1"}, {"pre", "gpt-2"}, {"eos", t.eos_id()}, {"chat_template", "x"}};
  old["tokens"] = t.description().tokens;
  old["merges"] = t.description().merges;
  old["special"] = {t.eos_id(), t.eos_id() + 1};
  old["user"] = {t.eos_id() + 2};
  const auto same = tokenizer_from_json(old.dump(), "checkpoint");
  for (const char* text : {"aab <|end|>", "a[tool]b"})
    EXPECT_EQ(same->encode(text, true), t.encode(text, true, nullptr)) << text;
}

TEST(ByteTokenizer, IsBytesAndAnEnd) {
  const auto t = byte_tokenizer();
  EXPECT_EQ(t->vocabulary_size(), 257);
  EXPECT_EQ(t->end_of_text_id(), 256);
  EXPECT_EQ(t->encode("aé\n"), (Ids{'a', 0xc3, 0xa9, '\n'}));
  EXPECT_EQ(t->encode("<|endoftext|>", true), Ids{256});
  EXPECT_EQ(t->decode(Ids{0xc3, 0xa9, 0}), std::string("é\0", 3));
  EXPECT_EQ(tokenizer_from_json(t->to_json(), "x")->encode("\xf0\x9f"), (Ids{0xef, 0xbf, 0xbd}));
}

TEST(StreamDecoderTest, GivesWholeCharacters) {
  const auto t = byte_tokenizer();
  StreamDecoder stream(*t);
  const std::vector<std::pair<int, std::string>> steps = {{'a', "a"},
                                                          {0xc3, ""},
                                                          {0xa9, "é"},
                                                          {0xf0, ""},
                                                          {0x9f, ""},
                                                          {0x98, ""},
                                                          {0x80, "😀"},
                                                          {0xe2, ""},
                                                          {0x82, ""},
                                                          {'b',
                                                           "\xef\xbf\xbd"
                                                           "b"},
                                                          {0xff, "\xef\xbf\xbd"},
                                                          {0xe2, ""}};
  for (const auto& [id, text] : steps) EXPECT_EQ(stream.feed(id), text) << id;
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.finish(), "");
}

class Teacher : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto path = testing::teacher_file();
    if (!path) GTEST_SKIP() << testing::no_teacher;
    tokenizer_ = tokenizer_from_gguf(GgufFile(*path));
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(Teacher, AgreesWithTheOracleOnHardStrings) {
  const auto lines = golden_lines("tokenizer/strings.jsonl.gz");
  EXPECT_GE(lines.size(), 1000U);
  const auto copy = tokenizer_from_json(tokenizer_->to_json(), "copy");
  std::int64_t num_dropped = 0;
  for (const auto& line : lines) {
    const std::string text = from_hex(line["text"]);
    const Ids expected = line["ids"];
    EncodeCounts counts;
    const Ids ids = tokenizer_->encode(text, false, &counts);
    ASSERT_EQ(ids, expected) << line["text"];
    ASSERT_EQ(tokenizer_->encode(text, true), line.value("special_ids", expected)) << line["text"];
    ASSERT_EQ(copy->encode(text), expected) << line["text"];
    const std::string bytes = from_hex(line.value("bytes", line["text"].get<std::string>()));
    ASSERT_EQ(tokenizer_->decode(ids), bytes) << line["text"];
    ASSERT_EQ(counts.dropped_bytes, static_cast<std::int64_t>(text.size() - bytes.size())) << line["text"];
    ASSERT_EQ(counts.repaired_sequences, 0);
    num_dropped += counts.dropped_bytes;
  }
  EXPECT_GT(num_dropped, 20);
}

TEST_F(Teacher, EndsDocumentsWithEndOfText) {
  EXPECT_EQ(tokenizer_->vocabulary_size(), 49152);
  EXPECT_EQ(tokenizer_->eos_id(), 2);
  EXPECT_EQ(tokenizer_->end_of_text_id(), 0);
  EXPECT_EQ(tokenizer_->id_of("<|im_end|>"), 2);
  EXPECT_EQ(tokenizer_->id_of("<|nothing|>"), std::nullopt);
}

TEST_F(Teacher, ThreadsMayShareIt) {
  const auto lines = golden_lines("tokenizer/strings.jsonl.gz");
  std::vector<std::jthread> threads;
  std::array<int, 4> wrong{};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = static_cast<std::size_t>(t); i < lines.size(); i += 3)
        wrong[t] += tokenizer_->encode(from_hex(lines[i]["text"])) != lines[i]["ids"].get<Ids>() ? 1 : 0;
    });
  threads.clear();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

}  // namespace
}  // namespace limbeck::data
