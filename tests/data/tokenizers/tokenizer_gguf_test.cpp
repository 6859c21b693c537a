// Tokenizers of the families through GGUF: from a tokenizer.json to a file's keys, and back from the file.
#include "data/tokenizers/tokenizer_gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "data/models/gguf_write.h"
#include "data/tokenizers/chat_template.h"
#include "data/tokenizers/tokenizer_json.h"
#include "tests/support/golden_lines.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;
using testing::error_of;
using testing::from_hex;
using ::testing::HasSubstr;

class TokenizerGguf : public ::testing::Test {
 protected:
  /// A file of the tokenizer's keys alone.
  std::shared_ptr<const GgufFile> written(const Tokenizer& tokenizer, const std::string& architecture = "llama") const {
    GgufKeys keys = {{"general.architecture", architecture}};
    for (auto& key : tokenizer.to_gguf(tokenizer.vocabulary_size() + 7)) keys.push_back(std::move(key));
    const std::string path = (folder_.path() / "t.gguf").string();
    GgufWriter writer(path, keys, {{"x", core::DType::F32, {1}}});
    const float one = 1;
    writer.write({&one, 1});
    writer.finish();
    return std::make_shared<GgufFile>(path);
  }
  testing::TemporaryFolder folder_;
};

/// The golden's lines by family, and its texts.
struct Golden {
  std::vector<std::string> texts;
  std::map<std::string, json> families;

  explicit Golden(const std::string& file) {
    const auto lines = testing::golden_lines(file);
    for (const auto& text : lines[0]["texts"]) texts.push_back(from_hex(text));
    for (std::size_t i = 1; i < lines.size(); ++i) families[lines[i]["family"]] = lines[i];
  }
  std::shared_ptr<const Tokenizer> tokenizer(const std::string& family) const {
    return tokenizer_from_hugging_face({families.at(family)["tokenizer_json"].get<std::string>(), "{}"}, family);
  }
  /// The ids that the library gives, names of special tokens taken as such or as text.
  Ids expected(const std::string& family, std::size_t text, bool parse_special) const {
    const json& line = families.at(family);
    const std::string index = std::to_string(text);
    return !parse_special && line["plain"].contains(index) ? line["plain"][index] : line["ids"][text];
  }
};

TEST_F(TokenizerGguf, BytesOfEveryFamilyComeBackByTheNameOfTheirWords) {
  const Golden golden("tokenizer_json/families.jsonl.gz");
  ASSERT_EQ(golden.texts.size(), 200U);
  const std::map<std::string, std::string> names = {{"gpt2", "gpt-2"},
                                                    {"llama3", "llama-bpe"},
                                                    {"qwen2", "qwen2"},
                                                    {"deepseek3", "deepseek-v3"},
                                                    {"deepseek_llm", "deepseek-llm"},
                                                    {"deepseek_coder", "deepseek-coder"},
                                                    {"smollm", "smollm"},
                                                    {"o200k", "gpt-4o"},
                                                    {"tekken", "tekken"},
                                                    {"olmo", "olmo"},
                                                    {"olmo2", "dbrx"}};
  for (const auto& [family, name] : names) {
    const auto tokenizer = golden.tokenizer(family);
    const auto file = written(*tokenizer);
    EXPECT_EQ(file->text("tokenizer.ggml.model"), "gpt2") << family;
    EXPECT_EQ(file->text("tokenizer.ggml.pre"), name) << family;
    const auto back = tokenizer_from_gguf(*file);
    const HuggingFaceTokenizer files = back->to_hugging_face();
    const auto again = tokenizer_from_hugging_face(files, family);
    EXPECT_EQ(back->start_of_text_id(), tokenizer->start_of_text_id()) << family;
    EXPECT_EQ(again->start_of_text_id(), tokenizer->start_of_text_id()) << family;
    EXPECT_EQ(back->vocabulary_size(), tokenizer->vocabulary_size()) << family;
    for (std::size_t i = 0; i < golden.texts.size(); ++i)
      for (const bool parse_special : {true, false}) {
        const Ids expected = golden.expected(family, i, parse_special);
        ASSERT_EQ(back->encode(golden.texts[i], parse_special), expected) << family << ": " << golden.texts[i];
        ASSERT_EQ(again->encode(golden.texts[i], parse_special), expected) << family << ": " << golden.texts[i];
      }
  }
}

TEST_F(TokenizerGguf, PiecesOfEveryFamilyComeBack) {
  const Golden golden("tokenizer_json/pieces.jsonl.gz");
  ASSERT_EQ(golden.texts.size(), 200U);
  for (const char* family : {"llama2", "mistral", "phi3", "gemma"}) {
    const auto tokenizer = golden.tokenizer(family);
    const auto file = written(*tokenizer, family == std::string("phi3") ? "phi3" : "llama");
    EXPECT_EQ(file->text("tokenizer.ggml.model"), "llama") << family;
    EXPECT_EQ(file->boolean("tokenizer.ggml.add_space_prefix"), family != std::string("gemma")) << family;
    const auto back = tokenizer_from_gguf(*file);
    EXPECT_EQ(back->start_of_text_id(), tokenizer->start_of_text_id()) << family;
    std::size_t compared = 0;
    for (std::size_t i = 0; i < golden.texts.size(); ++i)
      for (const bool parse_special : {true, false}) {
        const Ids expected = golden.expected(family, i, parse_special);
        ASSERT_EQ(tokenizer->encode(golden.texts[i], parse_special), expected) << family << ": " << golden.texts[i];
        // Llama.cpp puts a space in front of every text, also behind a special token; Mistral's pre-tokenizer where a
        // text begins, and has none itself.
        const std::string& text = golden.texts[i];
        if (family == std::string("mistral") &&
            (text.find('<') != std::string::npos || text.starts_with(' ') || text.starts_with("\u2581")))
          continue;
        ASSERT_EQ(back->encode(golden.texts[i], parse_special), expected) << family << ": " << golden.texts[i];
        ++compared;
      }
    EXPECT_GE(compared, 200U) << family;
  }
}

/// What no merge makes a difference to, and what makes one.
TEST_F(TokenizerGguf, WordsThatAreTokensAreMergedWhereThatIsAllTheSame) {
  const Golden golden("tokenizer_json/families.jsonl.gz");
  json document = json::parse(golden.families.at("o200k")["tokenizer_json"].get<std::string>());
  document["model"]["ignore_merges"] = true;
  const auto pre = [&] {
    return written(*tokenizer_from_hugging_face({document.dump(), "{}"}, "t"))->text("tokenizer.ggml.pre");
  };
  EXPECT_EQ(pre(), "gpt-4o");
  document["model"]["vocab"]["zqzq"] = document["model"]["vocab"].size() + 10;
  EXPECT_THAT(error_of(pre), HasSubstr("pre-tokenizer is not one that llama.cpp knows by name"));
}

TEST_F(TokenizerGguf, AChatTemplateGoesAlong) {
  const auto lines = testing::golden_lines("chat/chat.jsonl.gz");
  std::map<std::string, std::string> tokenizers;
  std::size_t through = 0;
  for (const json& line : lines) {
    if (line.contains("tokenizer_json")) tokenizers[line["tokenizer"]] = line["tokenizer_json"];
    if (!line.contains("template") || line["tokenizer"] == "mistral" || line["tokenizer"] == "gemma") continue;
    json config = {{"eos_token", line["eos"]}, {"chat_template", line["template"]}};
    if (!line["bos"].is_null()) config["bos_token"] = line["bos"];
    const auto tokenizer = tokenizer_from_hugging_face({tokenizers.at(line["tokenizer"]), config.dump()}, "t");
    if (tokenizer->to_hugging_face().tokenizer_json.find("\"ByteLevel\"") == std::string::npos) continue;
    const auto file = written(*tokenizer);
    EXPECT_EQ(file->text("tokenizer.chat_template"), line["template"].get<std::string>());
    const auto back = tokenizer_from_gguf(*file);
    const ChatTemplate chat(*back);
    EXPECT_EQ(chat.name(), line["name"].get<std::string>());
    for (std::size_t c = 0; c < lines[0]["conversations"].size(); ++c) {
      const json& expected = line["whole"][c];
      if (!expected.is_object()) continue;
      std::vector<ChatMessage> messages;
      for (const json& message : lines[0]["conversations"][c])
        messages.push_back({message[0] == "system" ? ChatRole::System
                            : message[0] == "user" ? ChatRole::User
                                                   : ChatRole::Assistant,
                            message[1]});
      EXPECT_EQ(chat.encode(messages).ids, expected["ids"].get<Ids>()) << chat.name() << ", conversation " << c;
      ++through;
    }
  }
  EXPECT_GT(through, 150U);
}

}  // namespace
}  // namespace limbeck::data
