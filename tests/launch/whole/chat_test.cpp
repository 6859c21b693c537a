// Conversations from end to end: as training text, as prompts, and their template through a model's other forms.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/text/token_file.h"
#include "tests/support/golden_lines.h"
#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

/// The golden's tokenizer and template of that name in a folder "chat_tokenizer", and its conversations.
class Chat : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto lines = golden_lines("chat/chat.jsonl.gz");
    std::filesystem::create_directories(folder_.path() / "chat_tokenizer");
    for (const json& line : lines)
      if (line.value("tokenizer", "") == "qwen" && line.contains("tokenizer_json"))
        folder_.write("chat_tokenizer/tokenizer.json", line["tokenizer_json"]);
    for (const json& line : lines)
      if (line.value("name", "") == "Qwen2.5") qwen_ = line;
    set_template(qwen_["template"]);
    std::string text;
    for (const std::size_t c : {0, 1, 5, 7, 16, 0, 1, 5, 7, 16, 0, 1, 5, 7, 16, 0, 1}) {
      json messages = json::array();
      for (const json& message : lines[0]["conversations"][c])
        messages.push_back({{"role", message[0]}, {"content", message[1]}});
      text += json{{"messages", messages}}.dump() + "\n";
    }
    folder_.write("chats.jsonl", text);
  }
  void set_template(const std::string& jinja) const {
    folder_.write("chat_tokenizer/tokenizer_config.json",
                  json{{"eos_token", "<|im_end|>"}, {"chat_template", jinja}}.dump());
  }
  std::string run(const std::string& arguments) const {
    const Outcome outcome = run_shell(folder_.command(arguments));
    EXPECT_EQ(outcome.code, 0) << arguments << "\n" << outcome.output;
    return outcome.output;
  }
  const RunFolder folder_{"chat"};
  json qwen_;
  const std::string train_ =
      "train tiny.textproto --steps 2 --set data.text=chats.jsonl --set data.format=CHAT "
      "--set data.tokenizer=chat_tokenizer --set data.cache_dir=cache ";
};

TEST_F(Chat, IsLearntAndGoesOn) {
  EXPECT_THAT(run(train_ + "--out run"), HasSubstr("taken as ordinary text in messages: "));
  // What is found again is not what the same file gives as other text.
  EXPECT_THAT(run(train_ + "--out again"), Not(HasSubstr("tokenizing")));

  const std::string how = "generate run --chat --max-tokens 5 --seed 3 --quiet --json ";
  const json one = json::parse(run(how + "--prompt 'What is a still?'"));
  EXPECT_EQ(one["messages"], json::parse(R"([{"role": "user", "content": "What is a still?"}])"));
  EXPECT_FALSE(one.contains("prompt"));
  // As many tokens as the library's of the same question, less what that conversation has behind it.
  const auto expected = qwen_["whole"][0];
  EXPECT_EQ(one["prompt_tokens"], expected["targets"][0]);
  folder_.write("prompts.jsonl", R"({"messages": [{"role": "user", "content": "What is a still?"}]})");
  EXPECT_EQ(json::parse(run(how + "--prompts prompts.jsonl"))["text"], one["text"]);
  // The template's own system message is longer.
  EXPECT_LT(json::parse(run(how + "--system Brief. --prompt 'What is a still?'"))["prompt_tokens"],
            one["prompt_tokens"]);
  EXPECT_EQ(run("generate run --chat --max-tokens 5 --seed 3 --quiet --prompt 'What is a still?'"),
            one["text"].get<std::string>() + "\n");

  for (const char* form : {"hf", "model.gguf"}) {
    run(fmt::format("convert run {}", form));
    EXPECT_EQ(
        json::parse(run(fmt::format("generate {} --chat --max-tokens 5 --seed 3 --quiet --json --prompt 'What is a "
                                    "still?'",
                                    form)))["text"],
        one["text"])
        << form;
    const json found = json::parse(run(fmt::format("inspect {} --json", form)));
    EXPECT_EQ(found["chat_template"], "Qwen2.5") << form;
  }
  EXPECT_THAT(run("eval run --text chats.jsonl --format chat"), HasSubstr("chats.jsonl"));
}

TEST_F(Chat, TokenFilesSayWhatIsLearnt) {
  EXPECT_THAT(run("tokenize chats.jsonl --format chat --tokenizer chat_tokenizer --out tokens"),
              HasSubstr("17 documents"));
  const data::TokenFile file((folder_.path() / "tokens").string());
  std::int64_t targets = 0;
  for (std::int64_t i = 0; i < file.num_documents(); ++i)
    for (const std::uint8_t is_target : file.read_mask(i)) targets += is_target;
  const json found = json::parse(run("inspect tokens --json"));
  EXPECT_EQ(found["targets"], targets);
  EXPECT_EQ(found["made_by"]["chat_template"], "Qwen2.5");
  EXPECT_THAT(run("inspect tokens"), HasSubstr("of conversations by the template Qwen2.5"));
}

TEST_F(Chat, WhatCannotBeIsOneLine) {
  const auto fails = [&](const std::string& arguments) {
    const Outcome outcome = run_shell(folder_.command(arguments));
    EXPECT_NE(outcome.code, 0) << arguments;
    return outcome.output;
  };
  folder_.write("bad.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": 5}]}\n");
  EXPECT_THAT(fails("tokenize bad.jsonl --format chat --tokenizer chat_tokenizer --out t"),
              HasSubstr("bad.jsonl:1: messages[0].content is 5, expected a text"));
  EXPECT_THAT(fails("tokenize chats.jsonl --format chat --parse-special --tokenizer chat_tokenizer --out t"),
              HasSubstr("parse_special is given for conversations"));
  EXPECT_THAT(fails("tokenize chats.jsonl --format chat --train --vocab 300 --out t"),
              HasSubstr("--format chat is given with --train"));
  set_template("{{ messages }}");
  EXPECT_THAT(
      fails("tokenize chats.jsonl --format chat --tokenizer chat_tokenizer --out t"),
      AllOf(HasSubstr("chat template is none that is known ({{messages}}...)"), HasSubstr("ChatML, Llama-3.1")));
  run("train tiny.textproto --steps 1 --out bytes_run --quiet");
  EXPECT_THAT(fails("generate bytes_run --chat --prompt a"), HasSubstr("the tokenizer has no chat template"));
}

}  // namespace
}  // namespace limbeck::testing
