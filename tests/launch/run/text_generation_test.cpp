#include "launch/run/text_generation.h"

#include <gmock/gmock.h>

#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

/// Of a prompt of three bytes for a model with ten positions.
std::string error_with(std::int64_t max_tokens, const std::string& prompt = "abc") {
  nn::ModelConfig model;
  model.max_positions = 10;
  GenerationConfig config;
  config.prompt = prompt;
  config.max_tokens = max_tokens;
  try {
    check_fits(config, *data::byte_tokenizer(), model, "the student");
  } catch (const core::UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(CheckFits, PromptAndMaxTokensFitIntoThePositions) {
  EXPECT_EQ(error_with(7), "");
  EXPECT_EQ(error_with(8),
            "generation.max_tokens is 8, expected at most the student's 10 positions less 3 tokens of the prompt");
  EXPECT_NE(error_with(INT64_MAX), "");
  EXPECT_NE(error_with(0, "eleven byte"), "");
  EXPECT_EQ(error_with(0, "ten bytes!"), "");
  EXPECT_EQ(error_with(INT64_MAX, ""), "");  // without a prompt nothing is generated
}

TEST(PromptIds, BeginWithTheStartOfATextOnce) {
  const auto tokenizer = data::sentencepiece_from_file(limbeck::testing::golden_path("sentencepiece/bpe.model"));
  ASSERT_EQ(tokenizer->start_of_text_id(), 1);
  std::vector<std::int32_t> expected = tokenizer->encode("The still");
  ASSERT_NE(expected.front(), 1);
  expected.insert(expected.begin(), 1);
  EXPECT_EQ(prompt_ids(*tokenizer, "The still"), expected);
  const std::vector<std::int32_t> named = prompt_ids(*tokenizer, "<s>The still");
  EXPECT_EQ(named.front(), 1);
  EXPECT_NE(named.at(1), 1);
  EXPECT_EQ(prompt_ids(*tokenizer, ""), std::vector<std::int32_t>{1});
  EXPECT_THAT(prompt_ids(*data::byte_tokenizer(), "ab"), ::testing::ElementsAre('a', 'b'));
}

}  // namespace
}  // namespace limbeck::launch
