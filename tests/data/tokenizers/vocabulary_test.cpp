#include "data/tokenizers/vocabulary.h"

#include <gmock/gmock.h>

#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"

namespace limbeck::data {
namespace {

using ::testing::HasSubstr;

/// A tokenizer of these names; the last ends a text.
BpeTokenizer named(std::vector<std::string> tokens) {
  BpeDescription d;
  d.eos = static_cast<std::int32_t>(tokens.size()) - 1;
  d.tokens = std::move(tokens);
  return {std::move(d), "made"};
}

TEST(Vocabulary, AnotherTokenIsNamed) {
  const auto abc = named({"a", "b", "c"});
  EXPECT_EQ(vocabulary_difference(abc, named({"a", "b", "c", "<more>"})), std::nullopt);
  const auto swapped = vocabulary_difference(abc, named({"a", "c", "b"}));
  ASSERT_TRUE(swapped.has_value());
  EXPECT_EQ(*swapped, R"(token 1 is "b" in the one and "c" in the other; 2 of 3 differ)");
  const auto shorter = vocabulary_difference(abc, named({"a", "b"}));
  ASSERT_TRUE(shorter.has_value());
  EXPECT_THAT(*shorter, HasSubstr("token 2 is \"c\" in the one and nothing in the other; 1 of 3"));
}

TEST(Vocabulary, WhatFillsItUpAndHowSpacesAreWrittenIsNoDifference) {
  EXPECT_EQ(vocabulary_difference(named({"a", "b", "", "[PAD3]"}), named({"a", "b"})), std::nullopt);
  EXPECT_EQ(named_size(named({"a", "b", "[PAD2]", "[PAD3]"})), 2);
  EXPECT_EQ(named_size(named({"a", "[PAD7]"})), 2);
  EXPECT_EQ(vocabulary_difference(named({"\u2581a"}), named({" a"})), std::nullopt);
}

TEST(Vocabulary, AFingerprintIsOfNamesAndIds) {
  const auto of = [](const std::vector<std::string>& tokens, std::int64_t size) {
    return vocabulary_fingerprint(named(tokens), size);
  };
  EXPECT_EQ(of({"a", "b"}, 2), of({"a", "b", "c"}, 2));
  EXPECT_EQ(of({"a", "b", "[PAD2]"}, 3), of({"a", "b"}, 2));
  EXPECT_NE(of({"a", "b"}, 2), of({"b", "a"}, 2));
  EXPECT_NE(of({"a", "b"}, 2), of({"a", "b", "c"}, 3));
  EXPECT_NE(of({"a", "", "b"}, 3), of({"a", "b"}, 2));
}

/// Bytes a, b and c, a merge of the first two, and added tokens, in the order of `tokens`.
BpeDescription cut_alike(std::vector<std::string> tokens) {
  BpeDescription d;
  d.tokens = std::move(tokens);
  d.merges = {"a b"};
  for (std::size_t id = 0; id < d.tokens.size(); ++id)
    if (d.tokens[id].starts_with('<')) d.added.push_back({.id = static_cast<std::int32_t>(id), .special = true});
  d.eos = d.added.empty() ? 0 : d.added.front().id;
  return d;
}
BpeTokenizer cutting(BpeDescription d) { return {std::move(d), "made"}; }

TEST(Vocabulary, TokensAreMatchedByTheirNames) {
  const auto text = cutting(cut_alike({"<end>", "c", "ab", "<abc>", "b", "a", "[PAD6]", ""}));
  const auto model = cutting(cut_alike({"a", "b", "c", "ab", "<end>", "<more>"}));
  EXPECT_EQ(cutting_difference(text, model), std::nullopt);
  const VocabularyMatch match = match_vocabularies(text, model, 6);
  EXPECT_EQ(match.ids, (std::vector<std::int64_t>{4, 2, 3, -1, 1, 0, -1, -1}));
  // What the text has and the model has not is cut as the model cuts it: of "<", "ab", "c", ">" it has these.
  EXPECT_EQ(match.pieces, (std::map<std::int64_t, std::vector<std::int64_t>>{{3, {3, 2}}}));
  EXPECT_EQ(match.num_moved, 5);
  EXPECT_EQ(shown_token(text, 3), "\"<abc>\"");
  // Of tokens without weights there is none.
  EXPECT_EQ(match_vocabularies(text, model, 3).ids, (std::vector<std::int64_t>{-1, 2, -1, -1, 1, 0, -1, -1}));
}

TEST(Vocabulary, OtherMergesWordsOrPiecesCutOtherwise) {
  const BpeDescription description = cut_alike({"a", "b", "c", "ab", "<end>"});
  const auto text = cutting(description);
  BpeDescription other = description;
  other.merges = {"b c"};
  other.tokens[3] = "bc";
  EXPECT_EQ(cutting_difference(text, cutting(other)),
            "the first that differs of how they cut words is \"token ab\" in the one and \"token b\" in the other");
  other = description;
  other.merges.push_back("ab c");
  other.tokens[4] = "abc";
  other.added.clear();
  EXPECT_THAT(cutting_difference(text, cutting(other)).value_or(""), HasSubstr("\"token abc\" in the other"));
  other = description;
  other.merges.clear();
  EXPECT_EQ(cutting_difference(text, cutting(other)),
            "the first that differs of how they cut words is \"merge a b\" in the one and nothing in the other");
  other = description;
  other.pretokenizer = {{.pattern = "a"}};
  EXPECT_THAT(cutting_difference(text, cutting(other)).value_or(""), HasSubstr("into words"));
  other = description;
  other.normalizer = {{.kind = NormalizerStep::Kind::Form}};
  EXPECT_TRUE(cutting_difference(text, cutting(other)).has_value());
  other = description;
  other.ignore_merges = true;
  EXPECT_TRUE(cutting_difference(text, cutting(other)).has_value());
}

/// Pieces of SentencePiece, with their scores.
SentencePieceTokenizer pieces(const std::vector<std::pair<std::string, float>>& normal, bool ends_first) {
  using Type = SentencePieceModel::Type;
  SentencePieceDescription d;
  const SentencePieceModel::Piece end{.text = "</s>", .type = Type::Control};
  if (ends_first) d.model.pieces.push_back(end);
  d.model.pieces.push_back({.text = "<unk>", .type = Type::Unknown});
  for (const auto& [text, score] : normal) d.model.pieces.push_back({.text = text, .score = score});
  if (!ends_first) d.model.pieces.push_back(end);
  d.eos = ends_first ? 0 : static_cast<std::int32_t>(d.model.pieces.size()) - 1;
  return {std::move(d), "made"};
}

TEST(Vocabulary, PiecesAreMatchedWhereTheirScoresAreTheSame) {
  const auto text = pieces({{"a", -1}, {"b", -2}}, true);
  const auto model = pieces({{"b", -2}, {"a", -1}}, false);
  EXPECT_EQ(cutting_difference(text, model), std::nullopt);
  EXPECT_EQ(match_vocabularies(text, model, 4).ids, (std::vector<std::int64_t>{3, 0, 2, 1}));
  EXPECT_THAT(cutting_difference(text, pieces({{"a", -3}, {"b", -2}}, true)).value_or(""), HasSubstr("piece a -3"));
}

}  // namespace
}  // namespace limbeck::data
