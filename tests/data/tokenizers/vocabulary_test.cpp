#include "data/tokenizers/vocabulary.h"

#include <gmock/gmock.h>

#include "data/tokenizers/tokenizer_bpe.h"

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

}  // namespace
}  // namespace limbeck::data
