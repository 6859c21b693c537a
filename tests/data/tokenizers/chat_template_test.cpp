#include "data/tokenizers/chat_template.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/tokenizers/tokenizer_json.h"
#include "tests/support/golden_lines.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;
using testing::error_of;
using ::testing::StartsWith;

using Conversation = std::vector<ChatMessage>;

/// tests/golden/chat/make_chat.py says what is in it.
struct Golden {
  std::vector<Conversation> conversations;
  std::map<std::string, std::string> tokenizers;
  std::vector<json> templates;

  Golden() {
    const auto lines = testing::golden_lines("chat/chat.jsonl.gz");
    for (const json& from : lines[0]["conversations"]) {
      Conversation& messages = conversations.emplace_back();
      for (const json& message : from) {
        const std::string role = message[0];
        const auto place = std::find(std::begin(chat_roles), std::end(chat_roles), role) - std::begin(chat_roles);
        messages.push_back({static_cast<ChatRole>(place), message[1]});
      }
    }
    for (std::size_t i = 1; i < lines.size(); ++i)
      if (lines[i].contains("tokenizer_json"))
        tokenizers[lines[i]["tokenizer"]] = lines[i]["tokenizer_json"];
      else
        templates.push_back(lines[i]);
  }
  std::shared_ptr<const Tokenizer> tokenizer(const json& line) const {
    json config = {{"eos_token", line["eos"]}, {"chat_template", line["template"]}};
    if (!line["bos"].is_null()) config["bos_token"] = line["bos"];
    return tokenizer_from_hugging_face({tokenizers.at(line["tokenizer"]), config.dump()}, line["name"]);
  }
};

const Golden& golden() {
  static const Golden golden;
  return golden;
}

/// [begin, end) of each run of targets.
std::vector<std::size_t> ranges(const std::vector<std::uint8_t>& is_target) {
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i <= is_target.size(); ++i) {
    const bool here = i < is_target.size() && is_target[i] != 0;
    const bool before = i > 0 && is_target[i - 1] != 0;
    if (here != before) result.push_back(i);
  }
  return result;
}

TEST(ChatTemplate, TokensAndTargetsAreThoseOfTransformers) {
  std::size_t rendered = 0, refused = 0;
  for (const json& line : golden().templates) {
    const auto tokenizer = golden().tokenizer(line);
    const ChatTemplate chat(*tokenizer);
    EXPECT_EQ(chat.name(), line["name"].get<std::string>());
    for (std::size_t c = 0; c < golden().conversations.size(); ++c) {
      const Conversation& messages = golden().conversations[c];
      const std::string what = fmt::format("{} ({}), conversation {}", chat.name(), line["tokenizer"], c);
      for (const bool asks : {false, true}) {
        const json& expected = line[asks ? "prompt" : "whole"][c];
        if (expected == "other") continue;
        ChatTokens tokens;
        const auto encode = [&] {
          if (asks)
            tokens.ids = chat.prompt(messages);
          else
            tokens = chat.encode(messages);
        };
        if (expected.is_null()) {
          EXPECT_NE(error_of(encode), "") << what;
          ++refused;
          continue;
        }
        EXPECT_EQ(error_of(encode), "") << what;
        EXPECT_EQ(tokens.ids, expected["ids"].get<Ids>()) << what;
        if (!asks) {
          EXPECT_EQ(ranges(tokens.is_target), expected["targets"].get<std::vector<std::size_t>>()) << what;
        }
        ++rendered;
      }
    }
  }
  EXPECT_GT(rendered, 400U);  // that a file which says nothing is none
  EXPECT_GT(refused, 100U);
}

/// A tokenizer of the golden's with another template.
std::shared_ptr<const Tokenizer> with_template(const json& chat_template) {
  const json config = {{"eos_token", "<|im_end|>"}, {"chat_template", chat_template}};
  return tokenizer_from_hugging_face({golden().tokenizers.at("qwen"), config.dump()}, "t");
}

const json& line_of(const std::string& name) {
  return *std::ranges::find_if(golden().templates, [&](const json& line) { return line["name"] == name; });
}

TEST(ChatTemplate, EveryFormatIsInTheGolden) {
  for (const std::string& name : chat_template_names())
    EXPECT_TRUE(std::ranges::any_of(golden().templates, [&](const json& line) { return line["name"] == name; }))
        << name;
}

TEST(ChatTemplate, AnUnknownOneIsRefusedWithTheKnown) {
  const auto error = [](const std::string& jinja) {
    const auto tokenizer = with_template(jinja);
    return error_of([&] { ChatTemplate chat(*tokenizer); });
  };
  EXPECT_EQ(error("{# a comment #}{% for m in messages %}{{ '<|x|>\\n' + m['content'] }}{% endfor %}"),
            "the tokenizer's chat template is none that is known "
            "({%forminmessages%}{{'<|x|> '+m.content}}{%endfor%}...), expected one of " +
                fmt::format("{}", fmt::join(chat_template_names(), ", ")));
  EXPECT_THAT(error(""), StartsWith("the tokenizer has no chat template, expected one of Qwen3, Qwen2.5, "));
  // What looks like a known one and does something else.
  const std::string chatml = line_of("ChatML")["template"];
  EXPECT_EQ(error(chatml), "");
  const std::string greeting = "{% if messages[0]['role'] != 'system' %}{{ 'Be good' }}{% endif %}";
  EXPECT_NE(error(greeting + chatml), "");
  EXPECT_NE(error("{{ '<|im_start|>system\\nBe good<|im_end|>\\n' }}" + chatml), "");
  EXPECT_NE(error("{% set thoughts = '</think>' %}" + chatml), "");
  std::string thinking = line_of("Qwen3")["template"];
  const std::string usual = R"('<|im_start|>assistant\n')";
  ASSERT_NE(thinking.find(usual), std::string::npos);
  thinking.replace(thinking.find(usual), usual.size(), R"('<|im_start|>assistant\n<think>\n')");
  EXPECT_NE(error(thinking), "");
}

TEST(ChatTemplate, HowATemplateIsWrittenIsNoMatter) {
  const std::string other =
      "{#- in another hand: it's -#}\n{%- for message in messages -%}\n  {{- \"<|im_start|>\" + message.role + \"\\n\" "
      "+ message[\"content\"] + '<|im_end|>' + '\\n' -}}\n{%- endfor -%}";
  EXPECT_EQ(chat_template_name(other), "ChatML");
  EXPECT_EQ(chat_template_name("{{ '{# no comment' }}"), std::nullopt);
  EXPECT_EQ(chat_template_name("{# no end"), std::nullopt);
  EXPECT_EQ(chat_template_name("{{ 'no end"), std::nullopt);
  EXPECT_EQ(chat_template_name("{{"), std::nullopt);
}

TEST(ChatTemplate, IsTheDefaultOfAList) {
  const json of_tools = {{"name", "tool_use"}, {"template", "{{ tools }}"}};
  const json usual = {{"name", "default"}, {"template", line_of("Qwen2.5")["template"]}};
  EXPECT_EQ(ChatTemplate(*with_template(json::array({of_tools, usual}))).name(), "Qwen2.5");
  const json other = {{"name", "rag"}, {"template", "x"}};
  EXPECT_EQ(with_template(json::array({of_tools, other}))->chat_template(), "");
  const json none = {{"name", "default"}, {"template", 5}};
  EXPECT_EQ(with_template(json::array({5, none}))->chat_template(), "");
}

TEST(ChatTemplate, AFileOfItsOwnGoesBeforeTheConfig) {
  testing::TemporaryFolder folder;
  testing::write_file(folder / "tokenizer.json", golden().tokenizers.at("qwen"));
  testing::write_file(folder / "tokenizer_config.json", R"({"eos_token": "<|im_end|>", "chat_template": "{{ x }}"})");
  testing::write_file(folder / "chat_template.jinja", line_of("Qwen2.5")["template"].get<std::string>());
  EXPECT_EQ(ChatTemplate(*open_hugging_face_tokenizer(folder.path())).name(), "Qwen2.5");
}

/// The same tokens when a checkpoint has carried the tokenizer.
TEST(ChatTemplate, TravelsWithTheTokenizer) {
  const Conversation messages = {{ChatRole::User, "a <|im_end|> b"}, {ChatRole::Assistant, " c\n"}};
  for (const json& line : golden().templates) {
    const auto tokenizer = golden().tokenizer(line);
    const auto copy = tokenizer_from_json(tokenizer->to_json(), "copy");
    EXPECT_EQ(ChatTemplate(*copy).name(), line["name"].get<std::string>());
    EXPECT_EQ(ChatTemplate(*copy).encode(messages).ids, ChatTemplate(*tokenizer).encode(messages).ids);
  }
}

TEST(ChatTemplate, NamesThatStayTextAreCounted) {
  const auto tokenizer = golden().tokenizer(line_of("ChatML"));
  const Conversation messages = {{ChatRole::User, "<|im_end|> <|im_start|>"}, {ChatRole::Assistant, "a"}};
  EncodeCounts counts;
  ChatTemplate(*tokenizer).encode(messages, &counts);
  EXPECT_EQ(counts.special_names, 2);
}

TEST(ChatTemplate, KnowsWhatClosesAReply) {
  const auto end = [](const std::string& name) {
    const auto tokenizer = golden().tokenizer(line_of(name));
    return std::string(tokenizer->name_of(ChatTemplate(*tokenizer).end_of_reply().value()));
  };
  EXPECT_EQ(end("Qwen3"), "<|im_end|>");
  EXPECT_EQ(end("Llama-2"), "</s>");
  EXPECT_EQ(end("gpt-oss"), "<|return|>");
  EXPECT_EQ(end("Gemma-3"), "<end_of_turn>");
}

TEST(ChatTemplate, APromptEndsWithAUsersMessage) {
  const auto tokenizer = golden().tokenizer(line_of("ChatML"));
  const ChatTemplate chat(*tokenizer);
  const Conversation answered = {{ChatRole::User, "a"}, {ChatRole::Assistant, "b"}};
  EXPECT_EQ(error_of([&] { chat.prompt(answered); }),
            "messages ends with a message of role assistant, expected a user's to reply to");
  EXPECT_EQ(error_of([&] { chat.prompt({}); }), "messages is empty, expected at least one");
}

}  // namespace
}  // namespace limbeck::data
