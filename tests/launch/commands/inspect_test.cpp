#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/models/gguf.h"
#include "launch/commands/inspect_parts.h"
#include "tests/support/family_reference.h"
#include "tests/support/golden_lines.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::family_folder;
using testing::golden_folder;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::read_file;
using testing::write_file;

TEST(NaturalOrder, NumbersInNamesAreNumbers) {
  std::vector<std::string> names = {"layers.10.x", "layers.2.x", "layers.2.a", "head", "layers.1.x", "layers.02.x", ""};
  std::sort(names.begin(), names.end(), natural_less);
  EXPECT_THAT(names, ElementsAre("", "head", "layers.1.x", "layers.2.a", "layers.02.x", "layers.2.x", "layers.10.x"));
  EXPECT_FALSE(natural_less("a", "a"));
  EXPECT_TRUE(natural_less("a9", "a99999999999999999999999999"));
  EXPECT_TRUE(natural_less("a", "a1"));
  EXPECT_FALSE(natural_less("a1", "a"));
}

/// A GGUF file of float32 tensors [8], but those of other `types`.
class GgufBytes {
 public:
  explicit GgufBytes(const std::string& architecture, std::vector<std::pair<std::string, std::uint32_t>> tensors) {
    bytes_ = "GGUF";
    number<std::uint32_t>(3).number<std::uint64_t>(tensors.size()).number<std::uint64_t>(2);
    text("general.architecture").number<std::uint32_t>(8).text(architecture);
    text("a\x1b.list").number<std::uint32_t>(9).number<std::uint32_t>(0).number<std::uint64_t>(3);
    bytes_ += "abc";
    std::uint64_t offset = 0;
    for (const auto& [name, type] : tensors) {
      text(name).number<std::uint32_t>(1).number<std::uint64_t>(8).number(type).number(offset);
      if (type == 0) offset += 32;
    }
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + offset);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  template <class T>
  GgufBytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& text(const std::string& value) {
    number<std::uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  std::string bytes_;
};

class InspectTest : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
};

std::vector<std::string> names_of(const nlohmann::ordered_json& json) {
  std::vector<std::string> names;
  for (const auto& tensor : json["tensors"]) names.push_back(tensor["name"]);
  return names;
}

TEST_F(InspectTest, AModelThatIsRead) {
  const Inspection found = inspect_gguf(golden_folder() / "gguf/llama_moe.gguf");
  const auto json = found.to_json();
  EXPECT_EQ(json["kind"], "GGUF");
  EXPECT_EQ(json["readable"], true);
  EXPECT_FALSE(json.contains("why_not"));
  EXPECT_EQ(json["metadata"]["general.architecture"], "llama");
  EXPECT_EQ(json["model"]["moe"]["num_experts"], json["metadata"]["llama.expert_count"]);
  EXPECT_GT(json["parameters"]["total"], json["parameters"]["active"]);
  EXPECT_THAT(found.to_text(), AllOf(HasSubstr("readable    yes\n"), HasSubstr("token_embd.weight")));
}

TEST_F(InspectTest, FormatsThatAreNotKnownAreNamedWithTheArchitecture) {
  const fs::path file = folder_ / "x.gguf";
  write_file(file, GgufBytes("mamba", {{"blk.10.w", 0}, {"blk.2.w", 19}, {"blk.11.w", 19}, {"blk.3.w", 99}}).bytes());
  const Inspection found = inspect_gguf(file);
  const auto json = found.to_json();
  EXPECT_EQ(json["readable"], false);
  EXPECT_EQ(json["why_not"],
            "general.architecture is mamba, which is not read; formats that are not read: IQ1_S (2 tensors, the first "
            "blk.2.w), type 99 (1 tensor, the first blk.3.w)");
  EXPECT_THAT(names_of(json), ElementsAre("blk.2.w", "blk.3.w", "blk.10.w", "blk.11.w"));
  EXPECT_EQ(json["tensors"][0]["type"], "IQ1_S");
  EXPECT_FALSE(json["tensors"][0].contains("bytes"));
  EXPECT_EQ(json["tensors"][2]["bytes"], 32);
  EXPECT_EQ(json["metadata"]["a\x1b.list"]["length"], 3);
  EXPECT_THAT(found.to_text(), AllOf(HasSubstr("readable    no\n"), HasSubstr("why not     general.architecture"),
                                     Not(HasSubstr("\x1b"))));
  // Whoever loads it hears of the first.
  EXPECT_THAT(testing::error_of([&] { data::GgufFile model(file.string()); }),
              HasSubstr("tensor blk.11.w has type IQ1_S"));
}

TEST_F(InspectTest, AnotherArchitectureIsSaid) {
  const fs::path file = folder_ / "x.gguf";
  write_file(file, GgufBytes("mamba", {{"blk.0.w", 0}}).bytes());
  EXPECT_THAT(std::string(inspect_gguf(file).to_json()["why_not"]),
              HasSubstr("general.architecture is mamba, expected one of llama"));
  write_file(file, GgufBytes("llama", {{"blk.0.w", 0}}).bytes());
  EXPECT_THAT(std::string(inspect_gguf(file).to_json()["why_not"]), HasSubstr("has no tensor token_embd.weight"));
}

TEST_F(InspectTest, DamageStaysAnError) {
  const fs::path file = folder_ / "x.gguf";
  const std::string whole = GgufBytes("llama", {{"a", 0}, {"a", 19}}).bytes();
  write_file(file, whole);
  EXPECT_THAT(testing::error_of([&] { inspect_gguf(file); }), HasSubstr("tensor a appears twice"));
  write_file(file, whole.substr(0, 60));
  EXPECT_THROW(inspect_gguf(file), core::Error);
}

TEST_F(InspectTest, AHuggingFaceFolderIsReadOrToldWhyNot) {
  const fs::path good = golden_folder() / "safetensors/mixtral";
  const auto json = inspect_hugging_face(good).to_json();
  EXPECT_EQ(json["readable"], true) << json.dump(1);
  EXPECT_TRUE(json.contains("model") && json.contains("parameters"));

  const fs::path other = folder_ / "other";
  fs::copy(good, other, fs::copy_options::recursive);
  write_file(other / "config.json",
             R"({"architectures":["FalconForCausalLM"],"model_type":"falcon","quantization_config":{"bits":4}})");
  const Inspection found = inspect_hugging_face(other);
  EXPECT_EQ(found.to_json()["readable"], false);
  EXPECT_THAT(std::string(found.to_json()["why_not"]), HasSubstr("architectures is FalconForCausalLM, expected"));
  EXPECT_EQ(found.to_json()["model_type"], "falcon");
  EXPECT_GT(found.to_json()["tensors"].size(), 5U);
  EXPECT_THAT(found.to_text(), HasSubstr("quantization_config {\"bits\":4}"));
  write_file(other / "config.json", "{");
  EXPECT_EQ(inspect_hugging_face(other).to_json()["readable"], false);
}

/// What config.json of the golden says, counted by hand.
TEST_F(InspectTest, LayersAreToldByKind) {
  const auto of = [](const char* family) { return inspect_hugging_face(family_folder(family)).to_json(); };
  const auto gemma = of("gemma3");
  EXPECT_EQ(gemma["layers"],
            nlohmann::ordered_json::parse(
                R"({"total": 3, "dense": 3, "experts": 0, "full": 1, "windows": [{"tokens": 7, "layers": 2}]})"));
  EXPECT_FALSE(gemma.contains("experts"));
  const auto qwen = of("qwen2_moe");
  EXPECT_EQ(qwen["layers"],
            nlohmann::ordered_json::parse(R"({"total": 4, "dense": 3, "experts": 1, "full": 4, "windows": []})"));
  EXPECT_EQ(qwen["experts"],
            nlohmann::ordered_json::parse(R"({"total": 6, "per_token": 3, "width": 8, "shared_width": 10})"));
  EXPECT_EQ(gemma["types"].size(), 1U);
  EXPECT_EQ(gemma["types"]["float32"]["tensors"], gemma["tensors"].size());
  std::int64_t bytes = 0;
  for (const auto& tensor : gemma["tensors"]) bytes += tensor["bytes"].get<std::int64_t>();
  EXPECT_EQ(gemma["bytes"], bytes);
}

/// A model of the golden's with a tokenizer whose vocabulary has as many tokens as are asked for.
TEST_F(InspectTest, WhatMaySurpriseIsAWarning) {
  const fs::path model = folder_ / "model";
  fs::copy(family_folder("qwen2"), model);
  const std::int64_t rows = inspect_hugging_face(model).to_json()["model"]["vocabulary"];
  const auto warnings = [&](std::int64_t tokens, const nlohmann::json& config) {
    nlohmann::json vocabulary;
    for (std::int64_t id = 0; id < tokens; ++id) vocabulary["t" + std::to_string(id)] = id;
    write_file(
        model / "tokenizer.json",
        nlohmann::json{{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}},
                       {"added_tokens",
                        {{{"id", 0}, {"content", "t0"}, {"special", true}, {"normalized", false}},
                         {{"id", 1}, {"content", "t1"}, {"special", true}, {"normalized", false}}}},
                       {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
                       {"decoder", {{"type", "ByteLevel"}}}}
            .dump());
    write_file(model / "tokenizer_config.json", config.dump());
    const Inspection found = inspect_hugging_face(model);
    const auto json = found.to_json();
    EXPECT_TRUE(json["tokenizer"].contains("vocabulary")) << json["tokenizer"];
    for (const auto& warning : json["warnings"])
      EXPECT_THAT(found.to_text(), HasSubstr("warning     " + warning.get<std::string>()));
    return json["warnings"].get<std::vector<std::string>>();
  };
  const nlohmann::json usual = {{"eos_token", "t0"}, {"pad_token", "t1"}};
  EXPECT_THAT(warnings(rows, usual), ElementsAre());
  EXPECT_THAT(
      warnings(rows + 2, usual),
      ElementsAre(fmt::format("the tokenizer has {} tokens, the embedding {} rows: those from {} on cannot be read",
                              rows + 2, rows, rows)));
  EXPECT_THAT(warnings(rows - 3, usual), ElementsAre(HasSubstr("so that the last 3 rows are no token")));
  EXPECT_THAT(warnings(rows - 1, usual), ElementsAre(HasSubstr("so that the last row is no token")));
  EXPECT_THAT(warnings(rows, {{"eos_token", "t0"}, {"pad_token", {{"content", "t0"}}}}),
              ElementsAre(HasSubstr("padding is token 0, \"t0\", which also ends")));
}

TEST_F(InspectTest, AChatTemplateIsToldByName) {
  const auto lines = testing::golden_lines("chat/chat.jsonl.gz");
  const auto is_of = [](const char* key, const char* value) {
    return [=](const nlohmann::json& line) { return line.value(key, "") == value; };
  };
  const auto tokenizer = std::ranges::find_if(lines, is_of("tokenizer", "qwen"));
  const auto chat = std::ranges::find_if(lines, is_of("name", "Qwen2.5"));
  write_file(folder_ / "tokenizer.json", (*tokenizer)["tokenizer_json"].get<std::string>());
  const auto inspected = [&](const nlohmann::json& chat_template) {
    nlohmann::json config = {{"eos_token", "<|im_end|>"}};
    if (!chat_template.is_null()) config["chat_template"] = chat_template;
    write_file(folder_ / "tokenizer_config.json", config.dump());
    return inspect_tokenizer(folder_.path());
  };
  EXPECT_EQ(inspected((*chat)["template"]).to_json()["chat_template"], "Qwen2.5");
  EXPECT_EQ(inspected("{{ messages }}").to_json()["chat_template"], "unknown");
  EXPECT_THAT(inspected("{{ messages }}").to_text(), HasSubstr("none that is known: \"{{ messages }}\""));
  EXPECT_EQ(inspected(nullptr).to_json()["chat_template"], nullptr);
}

TEST_F(InspectTest, Tokenizers) {
  const auto pieces = inspect_tokenizer(golden_folder() / "sentencepiece/bpe.model");
  EXPECT_EQ(pieces.to_json()["algorithm"], "SentencePiece BPE");
  EXPECT_THAT(pieces.to_text(), HasSubstr("\"</s>\""));
  const auto bytes = tokenizer_json(*data::byte_tokenizer());
  EXPECT_EQ(bytes["kind"], "bytes");
  EXPECT_EQ(bytes["vocabulary"], 257);
  EXPECT_EQ(bytes["special_tokens"][0]["text"], "<|endoftext|>");
}

}  // namespace
}  // namespace limbeck::launch
