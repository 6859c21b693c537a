// `limbeck generate` with prompts from files and standard input, several at once.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

class GenerateCommand : public ::testing::Test {
 protected:
  void SetUp() override { run("train tiny.textproto --steps 2 --out run --quiet"); }
  std::string run(const std::string& arguments, int ranks = 1, const std::string& input = "") const {
    const Outcome outcome = run_shell(folder_.command(arguments, ranks) + input);
    EXPECT_EQ(outcome.code, 0) << arguments << "\n" << outcome.output;
    return outcome.output;
  }
  static std::vector<json> objects(const std::string& output) {
    std::vector<json> result;
    std::istringstream lines(output);
    for (std::string line; std::getline(lines, line);) result.push_back(json::parse(line));
    return result;
  }
  const RunFolder folder_{"generate_command"};
  const std::string how_ = "generate run --max-tokens 9 --seed 4 --quiet ";
};

TEST_F(GenerateCommand, PromptsOfAFileGoOnAsEachDoesAlone) {
  const std::vector<std::string> prompts = {"the still", "a", "what was large becomes", "drips slowly"};
  std::string lines, in_lines, expected;
  for (const std::string& prompt : prompts) {
    lines += prompt + "\n";
    in_lines += json({{"prompt", prompt}, {"id", 1}}).dump() + "\n";
    const std::string alone = run(fmt::format("{} --prompt '{}'", how_, prompt));
    EXPECT_THAT(alone, ::testing::StartsWith(prompt));
    expected += (expected.empty() ? "" : "\n") + alone;
  }
  folder_.write("prompts.txt", lines);
  folder_.write("prompts.jsonl", in_lines);
  for (const char* more : {"", " --batch 1", " --batch 2 --threads 2"})
    EXPECT_EQ(run(how_ + "--prompts prompts.txt" + more), expected) << more;
  EXPECT_EQ(run(how_ + "--prompts prompts.jsonl"), expected);
  EXPECT_EQ(run(how_ + "--prompts -", 1, " <prompts.txt"), expected);
  EXPECT_EQ(run(how_ + "--prompts - --field prompt", 1, " <prompts.jsonl"), expected);
  EXPECT_EQ(run(how_ + "--prompts -", 2, " <prompts.txt"), expected) << "standard input is the first rank's";
}

TEST_F(GenerateCommand, APromptThatFillsThePositionsIsSaid) {
  const std::string full(128, 'a');  // a token a byte, and the model has 128 positions
  EXPECT_THAT(run("generate run --prompt " + full),
              AllOf(HasSubstr("prompt 1 fills the model's 128 positions"), Not(HasSubstr("tokens/s"))));
}

TEST_F(GenerateCommand, AnEmptyPromptIsNamedByItsPlace) {  // the byte tokenizer has no start of a text
  folder_.write("prompts.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"\"}\n");
  for (const int ranks : {1, 2}) {
    const Outcome file = run_shell(folder_.command(how_ + "--prompts prompts.jsonl", ranks));
    EXPECT_EQ(file.code, 1);
    EXPECT_EQ(file.lines_with("prompts.jsonl:2: an empty prompt").size(), 1U) << file.output;
  }
  EXPECT_THAT(run_shell(folder_.command(how_ + "--prompt ''")).output, HasSubstr("--prompt: an empty prompt"));
}

TEST_F(GenerateCommand, JsonHasAnObjectForEachPrompt) {
  folder_.write("prompts.txt", "the still\na\n");
  const std::vector<json> said = objects(run(how_ + "--prompts prompts.txt --json"));
  ASSERT_THAT(said, SizeIs(2));
  EXPECT_EQ(said[0]["prompt"], "the still");
  EXPECT_EQ(said[0]["prompt_tokens"], 9);
  EXPECT_EQ(said[1]["prompt"], "a");
  for (const json& one : said) {
    EXPECT_TRUE(one["finish_reason"] == "length" ? one["tokens"] == 9 : one["tokens"] < 9) << one;
    EXPECT_GT(one["seconds"].get<double>(), 0);
    EXPECT_THAT(one["text"].get<std::string>(), Not(::testing::StartsWith("the still")));
  }
  EXPECT_EQ(objects(run("generate run --prompt a --max-tokens 0 --json --quiet"))[0]["finish_reason"], "length");
  run("generate run --prompts prompts.txt --max-tokens 2 --json 2>note.txt");
  EXPECT_THAT(folder_.read("note.txt"), HasSubstr("prompt 2/2"));
}

TEST_F(GenerateCommand, StandardInputIsOnePromptWithoutItsLastLineEnd) {
  folder_.write("letter.txt", "first line\n\nlast line\n");
  const json said = objects(run(how_ + "--prompt - --json", 1, " <letter.txt")).at(0);
  EXPECT_EQ(said["prompt"], "first line\n\nlast line");
  const Outcome empty = run_shell(folder_.command(how_ + "--prompt -") + " </dev/null");
  EXPECT_EQ(empty.code, 1);
  EXPECT_THAT(empty.output, HasSubstr("standard input: is empty, expected a prompt"));
}

TEST_F(GenerateCommand, ItsSpeedIsANote) {
  const std::string noted = run("generate run --prompt 'the still' --temperature 0 --max-tokens 5 2>note.txt");
  EXPECT_THAT(noted, Not(HasSubstr("tokens/s")));
  EXPECT_THAT(
      folder_.read("note.txt"),
      ::testing::ContainsRegex(R"(prefill 9 tokens at [0-9.]+ tokens/s \([0-9.]+ s\), decode [0-9]+ tokens? at )"
                               R"([0-9.]+ tokens/s \([0-9.]+ s\))"));
  run(how_ + "--prompt a 2>note.txt");
  EXPECT_EQ(folder_.read("note.txt"), "");
}

}  // namespace
}  // namespace limbeck::testing
