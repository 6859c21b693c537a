#include "data/tokenizers/token_borders.h"

#include <gmock/gmock.h>

#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "data/tokenizers/unicode.h"
#include "tests/support/places.h"

namespace limbeck::data {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Borders = std::vector<std::int64_t>;
using Ids = std::vector<std::int32_t>;

/// With a space in front of every text, and bytes for what has no piece.
std::shared_ptr<const Tokenizer> sentencepiece() {
  return sentencepiece_from_file(testing::golden_folder() / "sentencepiece" / "bpe.model");
}

/// Bytes, merges of two and more, and control tokens behind them: <end> and <begin>.
std::shared_ptr<const Tokenizer> bpe(const std::vector<std::pair<std::string, std::string>>& merges) {
  BpeDescription d;
  for (int byte = 0; byte < 256; ++byte) d.tokens.push_back(alphabet_of_bytes(std::string(1, static_cast<char>(byte))));
  for (const auto& [left, right] : merges) {
    d.merges.push_back(alphabet_of_bytes(left) + " " + alphabet_of_bytes(right));
    d.tokens.push_back(alphabet_of_bytes(left + right));
  }
  for (const char* name : {"<end>", "<begin>"}) {
    d.added.push_back({.id = static_cast<std::int32_t>(d.tokens.size()), .special = true});
    d.tokens.emplace_back(name);
  }
  d.eos = d.added[0].id;
  d.end_of_text = d.added[0].id;
  return std::make_shared<BpeTokenizer>(std::move(d), "test");
}

TEST(TokenBorders, LieBetweenTheBytesOfTokens) {
  const auto tokenizer = bpe({{"t", "h"}, {"th", "e"}});
  const std::string text = "the thé";
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(token_borders(*tokenizer, ids, text), (Borders{0, 3, 4, 6, 7, 8}));
  EXPECT_EQ(text_of_tokens(*tokenizer, ids, false), text);
  EXPECT_EQ(token_borders(*tokenizer, ids, "the the"), std::nullopt);
  EXPECT_EQ(token_borders(*tokenizer, ids, "the thé!"), std::nullopt);
  EXPECT_EQ(token_borders(*tokenizer, {}, ""), Borders{0});
}

TEST(TokenBorders, ControlTokensHaveNoBytes) {
  const auto tokenizer = bpe({});
  const std::int32_t end = *tokenizer->id_of("<end>"), begin = *tokenizer->id_of("<begin>");
  const Ids ids = {begin, 'a', begin, 'b', end};
  EXPECT_EQ(text_of_tokens(*tokenizer, ids, true), "ab");
  EXPECT_EQ(token_borders(*tokenizer, ids, "ab"), (Borders{0, 0, 1, 1, 2, 2}));
  const Ids bytes = {'<', 256};
  EXPECT_EQ(text_of_tokens(*byte_tokenizer(), bytes, true), "<");
  EXPECT_TRUE(is_without_text(*byte_tokenizer(), 256));
}

/// The space that is put in front is no text; one of the text itself is.
TEST(TokenBorders, TheSpaceInFrontIsLeftOut) {
  const auto tokenizer = sentencepiece();
  for (const std::string text :
       {"Hello world", " Hello", "  a  b ", "\xf0\x9f\x98\x80 \xf0\x9f\x98\x80", "<s> x", "\n\tq", ""}) {
    SCOPED_TRACE(text);
    const Ids ids = tokenizer->encode(text);
    const auto borders = token_borders(*tokenizer, ids, text);
    ASSERT_TRUE(borders);
    ASSERT_EQ(borders->size(), ids.size() + 1);
    EXPECT_EQ(borders->front(), 0);
    EXPECT_EQ(borders->back(), std::ssize(text));
    for (std::size_t i = 1; i < ids.size(); ++i) {
      const auto from = static_cast<std::size_t>((*borders)[i]), to = static_cast<std::size_t>((*borders)[i + 1]);
      EXPECT_EQ(text.substr(from, to - from), tokenizer->decode_inside(ids[i])) << i;
    }
    EXPECT_EQ(text_of_tokens(*tokenizer, ids, /*begins_text=*/true), text);
  }
  const Ids inside = tokenizer->encode("world");  // as behind other tokens: its space is of the text
  EXPECT_EQ(text_of_tokens(*tokenizer, inside, /*begins_text=*/false), " world");
  EXPECT_EQ(token_borders(*tokenizer, inside, " world")->back(), 6);
}

TEST(CommonSpans, LieBetweenSharedBorders) {
  const Borders one = {0, 3, 4, 6, 9}, other = {0, 1, 4, 5, 6, 9};
  EXPECT_THAT(common_spans(one, other),
              ElementsAre(CommonSpan{0, 2, 0, 2, 4}, CommonSpan{2, 1, 2, 2, 2}, CommonSpan{3, 1, 4, 1, 3}));
  EXPECT_THAT(common_spans(Borders{0}, Borders{0}), IsEmpty());
  EXPECT_THAT(common_spans(one, Borders{0}), IsEmpty());
}

TEST(CommonSpans, TokensWithoutBytesAreInNone) {
  const Borders one = {0, 0, 2, 2, 4, 4}, other = {0, 2, 4};
  EXPECT_THAT(common_spans(one, other), ElementsAre(CommonSpan{1, 1, 0, 1, 2}, CommonSpan{3, 1, 1, 1, 2}));
  EXPECT_THAT(common_spans(one, Borders{0, 4, 4}), IsEmpty());  // one stands within
  EXPECT_THAT(common_spans(Borders{0, 4}, Borders{0, 3, 3, 4}), IsEmpty());
}

/// Where a side begins later or ends earlier, as text that is cut within a character does.
TEST(CommonSpans, OfPartsOfAText) {
  const Borders one = {0, 1, 2, 3, 5, 7}, other = {2, 3, 4, 5};
  EXPECT_THAT(common_spans(one, other), ElementsAre(CommonSpan{2, 1, 0, 1, 1}, CommonSpan{3, 1, 1, 2, 2}));
  EXPECT_THAT(common_spans(Borders{0, 4, 5}, other), ElementsAre(CommonSpan{1, 1, 2, 1, 1}));
  EXPECT_THAT(common_spans(Borders{0, 9}, other), IsEmpty());
}

/// Each span is the same text of both, and together they are all of it.
TEST(CommonSpans, AreTheSameTextOfBoth) {
  const auto one = sentencepiece();
  const auto other = bpe({{"t", "h"}, {"th", "e"}, {" ", "t"}, {"e", " "}, {"\xc3", "\xa9"}, {"i", "n"}});
  const std::string text = "the thin hen, n\xc3\xa9 in the thing\n the end. 12345";
  const Ids ids = one->encode(text), others = other->encode(text);
  const auto borders = token_borders(*one, ids, text), theirs = token_borders(*other, others, text);
  ASSERT_TRUE(borders && theirs);
  std::int64_t at = 0;
  for (const CommonSpan& span : common_spans(*borders, *theirs)) {
    EXPECT_EQ((*borders)[static_cast<std::size_t>(span.first)], at);
    EXPECT_EQ((*theirs)[static_cast<std::size_t>(span.other_first)], at);
    at += span.bytes;
    EXPECT_EQ((*borders)[static_cast<std::size_t>(span.first + span.count)], at);
    EXPECT_EQ((*theirs)[static_cast<std::size_t>(span.other_first + span.other_count)], at);
  }
  EXPECT_EQ(at, std::ssize(text));
}

}  // namespace
}  // namespace limbeck::data
