#include "data/tokenizers/smaller_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/text/bpe_training.h"
#include "data/text/text_source.h"
#include "data/tokenizers/tokenizer_json.h"
#include "tests/support/teacher_file.h"

namespace limbeck::data {
namespace {

using ::testing::ElementsAre;

/// The text that the oracle's tokenizers were trained on.
std::string some_text() {
  const auto golden = nlohmann::json::parse(read_document(testing::golden_path("tokenizer_json/training.json.gz")));
  const std::string hex = golden["text"];
  std::string text;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    text.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return text;
}

std::vector<std::int64_t> counts_of(const BpeTokenizer& tokenizer, std::string_view text) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(tokenizer.vocabulary_size()), 0);
  for (const std::int32_t id : tokenizer.encode(text, false, nullptr)) ++counts[static_cast<std::size_t>(id)];
  return counts;
}

TEST(SmallerVocabulary, KeepsWhatItsTokensAreMergedFrom) {
  BpeDescription whole;
  whole.tokens = {"<end>", "a", "b", "c", "d", "bc", "ab", "cd", "abcd", "<im>", "da", "<unused>"};
  whole.merges = {"a b", "c d", "b c", "ab cd", "d a"};
  whole.added = {{.id = 9, .special = true}};
  const std::vector<std::int64_t> counts = {0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0};
  const SmallerVocabulary once = smaller_vocabulary(whole, counts, 1);
  EXPECT_THAT(once.ids, ElementsAre(0, 1, 2, 3, 4, 6, 7, 8, 9, 10));
  EXPECT_THAT(once.description.tokens, ElementsAre("<end>", "a", "b", "c", "d", "ab", "cd", "abcd", "<im>", "da"));
  EXPECT_THAT(once.description.merges, ElementsAre("a b", "c d", "ab cd", "d a"));
  EXPECT_EQ(once.description.added[0].id, 8);
  const SmallerVocabulary twice = smaller_vocabulary(whole, counts, 2);
  EXPECT_THAT(twice.ids, ElementsAre(0, 1, 2, 3, 4, 6, 7, 8, 9));
  EXPECT_THAT(twice.description.merges, ElementsAre("a b", "c d", "ab cd"));
}

TEST(SmallerVocabulary, CutsTheTextAsBefore) {
  const std::string text = some_text();
  for (const char* rules_name : {"gpt-2", "llama3"}) {
    const PretokenizerRules& rules = pretokenizer_rules(rules_name, "test");
    WordCounts words;
    WordCounter(rules).add(text, words);
    const BpeTokenizer whole(train_bpe(words, rules, {.vocabulary = 900, .special = {"<|endoftext|>", "<|im_end|>"}}),
                             "test");
    // Of a part of the text alone: other parts have tokens that go.
    const std::string part = text.substr(0, text.size() / 8);
    const SmallerVocabulary smaller = smaller_vocabulary(whole.description(), counts_of(whole, part), 1);
    EXPECT_LT(smaller.ids.size(), static_cast<std::size_t>(whole.vocabulary_size()));
    const auto tokenizer =
        tokenizer_from_hugging_face(write_tokenizer_json(smaller.description, smaller.description.eos), "smaller");
    std::vector<std::int32_t> as_before;
    for (const std::int32_t id : tokenizer->encode(part))
      as_before.push_back(static_cast<std::int32_t>(smaller.ids.at(static_cast<std::size_t>(id))));
    EXPECT_EQ(as_before, whole.encode(part, false, nullptr));
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    EXPECT_EQ(tokenizer->id_of("<|im_end|>"), 1);
    EXPECT_EQ(tokenizer->end_of_text_id(), 0);
  }
}

}  // namespace
}  // namespace limbeck::data
