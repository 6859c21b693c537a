#include "data/text/bpe_training.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/text/text_source.h"
#include "data/tokenizers/tokenizer_json.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using nlohmann::json;
using testing::error_of;

WordCounts words_of(const std::string& text, const PretokenizerRules& rules) {
  WordCounts counts;
  WordCounter(rules).add(text, counts);
  return counts;
}

const PretokenizerRules& rules_named(const char* name) { return pretokenizer_rules(name, "test"); }

TEST(BpeTraining, GivesTheTokensOfTheOracle) {
  const json golden = json::parse(read_document(testing::golden_path("tokenizer_json/training.json.gz")));
  std::string text;
  const std::string hex = golden["text"];
  for (std::size_t i = 0; i < hex.size(); i += 2)
    text.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  for (const auto& [family, name] : {std::pair{"gpt2", "gpt-2"}, std::pair{"llama3", "llama3"}}) {
    const auto& rules = rules_named(name);
    std::int64_t last = 0;
    const BpeDescription d = train_bpe(
        words_of(text, rules), rules,
        {.vocabulary = 700, .special = {"<|endoftext|>", "<|im_end|>"}, .progress = [&](std::int64_t n) { last = n; }});
    EXPECT_EQ(d.tokens, golden[family]["tokens"].get<std::vector<std::string>>()) << family;
    EXPECT_EQ(d.merges, golden[family]["merges"].get<std::vector<std::string>>()) << family;
    EXPECT_GT(last, 600);
    const auto opened = tokenizer_from_hugging_face(write_tokenizer_json(d, d.eos), "trained");
    EXPECT_EQ(dynamic_cast<const BpeTokenizer&>(*opened).description(), d);
    EXPECT_EQ(opened->decode(opened->encode(text)), text);
    EXPECT_EQ(opened->end_of_text_id(), 0);
  }
}

TEST(BpeTraining, MergesTheMostFrequentThenTheLowest) {
  const auto& rules = rules_named("gpt-2");
  const BpeDescription d = train_bpe({{"aaaa", 3}, {"bc", 3}, {"x", 9}, {"yz", 1}}, rules, {.vocabulary = 300});
  EXPECT_EQ(d.merges, (std::vector<std::string>{"a a", "b c", "aa aa"}));  // "aaaa" has the pair three times
  EXPECT_EQ(d.tokens.size(), 257U + 3U);                                   // "yz" is there once
  EXPECT_EQ(d.tokens.back(), "aaaa");
}

TEST(BpeTraining, NoTextGivesTheBytes) {
  const BpeDescription d = train_bpe({}, rules_named("gpt-2"), {.vocabulary = 1000});
  EXPECT_EQ(d.tokens.size(), 257U);
  EXPECT_EQ(d.merges.size(), 0U);
}

TEST(BpeTraining, BadOptionsAreNamed) {
  const auto refused = [](BpeTraining options) {
    return error_of([&] { train_bpe({}, rules_named("gpt-2"), options); });
  };
  EXPECT_NE(refused({.vocabulary = 256}).find("a vocabulary of 256 tokens, expected at least 257"), std::string::npos);
  EXPECT_NE(refused({.vocabulary = 300, .special = {}}).find("no special token"), std::string::npos);
  EXPECT_NE(refused({.vocabulary = 300, .special = {"\xff"}}).find("ill-formed, expected UTF-8"), std::string::npos);
  EXPECT_THROW(check_training({.vocabulary = 200}), core::Error);
  EXPECT_NO_THROW(check_training({.vocabulary = 257}));
  EXPECT_NE(refused({.vocabulary = 300, .special = {""}}).find("special token is empty"), std::string::npos);
  EXPECT_NE(refused({.vocabulary = 300, .special = {"<a>", "<a>"}}).find("<a> is there twice"), std::string::npos);
  EXPECT_NE(refused({.vocabulary = 300, .special = {"a"}}).find("a is a byte's"), std::string::npos);
}

TEST(BpeTraining, ThreadsCountTheSameWords) {
  const testing::TemporaryFolder folder;
  for (int i = 0; i < 9; ++i)
    testing::write_file(folder / std::to_string(i),
                        "some words " + std::string(static_cast<std::size_t>(i), 'w') + " \xff e\u0301");
  const auto files = list_text_files({folder.path().string()});
  const auto& rules = rules_named("qwen2");
  std::int64_t last = 0;
  const WordCounts one = count_words(files, rules, {.threads = 1});
  const WordCounts three =
      count_words(files, rules, {.threads = 3, .progress = [&](std::int64_t done) { last = done; }});
  EXPECT_EQ(one, three);
  EXPECT_EQ(last, 9);
  EXPECT_EQ(one.at("some"), 9);
  EXPECT_EQ(one.at(" é"), 9);  // form C, as Qwen's pipeline
  EXPECT_EQ(one.at(" \xef\xbf\xbd"), 9);
  EXPECT_NE(error_of([&] { count_words({"/missing"}, rules, {.threads = 2}); }).find("/missing"), std::string::npos);
}

TEST(BpeTraining, JsonLinesAreDocuments) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "a.jsonl", R"({"body": "one two"})"
                                          "\n"
                                          R"({"body": "one"})"
                                          "\n");
  const WordCounts words = count_words({folder / "a.jsonl"}, rules_named("gpt-2"), {.threads = 2, .field = "body"});
  EXPECT_EQ(words, (WordCounts{{"one", 2}, {" two", 1}}));
}

TEST(BpeTraining, AVeryLongWordIsCut) {
  const WordCounts words = words_of(std::string(3000, 'a'), rules_named("gpt-2"));
  EXPECT_EQ(words, (WordCounts{{std::string(1024, 'a'), 2}, {std::string(952, 'a'), 1}}));
}

}  // namespace
}  // namespace limbeck::data
