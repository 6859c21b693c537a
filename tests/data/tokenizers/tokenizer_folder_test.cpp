// What lies beside a tokenizer in a folder of a model: added tokens, ends of answers.
#include "data/tokenizers/tokenizer_folder.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/models/gguf_write.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "data/tokenizers/tokenizer_json.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "data/tokenizers/unicode.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;
using nlohmann::json;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_file;

/// Bytes, then </s> = 256 as an added token.
json bytes_json() {
  json vocabulary = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    vocabulary[alphabet_of_bytes({&c, 1})] = byte;
  }
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {{"added_tokens", {{{"id", 256}, {"content", "</s>"}, {"special", true}, {"normalized", false}}}},
          {"pre_tokenizer", bytes},
          {"decoder", bytes},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}};
}

json added(std::int64_t id, const std::string& content, bool special = true) {
  return {{"id", id}, {"content", content}, {"special", special}, {"normalized", false}};
}

class Folder : public ::testing::Test {
 protected:
  void write(const std::string& name, const json& contents) { write_file(folder_ / name, contents.dump()); }
  std::shared_ptr<const Tokenizer> open() { return open_hugging_face_tokenizer(folder_.path()); }
  /// The SentencePiece model of the golden files: 400 pieces, </s> = 2.
  std::shared_ptr<const Tokenizer> open_sentencepiece() {
    const fs::path model = folder_ / "tokenizer.model";
    if (!fs::exists(model)) fs::copy_file(testing::golden_folder() / "sentencepiece/bpe.model", model);
    return sentencepiece_from_file(model);
  }
  TemporaryFolder folder_;
};

using TokenizerFolder = Folder;

TEST_F(TokenizerFolder, EveryEndOfEitherConfigStops) {
  write("tokenizer.json", bytes_json());
  write("tokenizer_config.json", {{"eos_token", "</s>"}});
  EXPECT_EQ(open()->stop_ids(), (Ids{256}));
  write("config.json", {{"eos_token_id", {256, 65}}});
  EXPECT_EQ(open()->stop_ids(), (Ids{256, 65}));
  write("generation_config.json", {{"eos_token_id", {66, 256}}, {"temperature", 0.6}});
  const auto both = open();
  EXPECT_EQ(both->other_ends(), (Ids{66, 65}));
  EXPECT_EQ(both->eos_id(), 256);
  const auto files = both->to_hugging_face();
  EXPECT_EQ(json::parse(files.generation_config_json), (json{{"eos_token_id", {66, 256, 65}}, {"temperature", 0.6}}));
  EXPECT_EQ(tokenizer_from_json(both->to_json(), "checkpoint")->other_ends(), (Ids{66, 65}));
  // A file that says all goes out as it came.
  write_file(folder_ / "generation_config.json", "{ \"eos_token_id\": [256,  65] }");
  EXPECT_EQ(open()->to_hugging_face().generation_config_json, "{ \"eos_token_id\": [256,  65] }");
  // What no model can give is none; and what is no id is named.
  write("generation_config.json", {{"eos_token_id", {256, 70000, -1}}});
  write("config.json", {{"eos_token_id", nullptr}});
  EXPECT_EQ(open()->stop_ids(), (Ids{256}));
  write("generation_config.json", {{"eos_token_id", {256, "</s>"}}});
  EXPECT_THAT(error_of([&] { open(); }),
              HasSubstr("generation_config.json: eos_token_id[1] is \"</s>\", expected a token's id"));
  write("generation_config.json", {{"eos_token_id", 1.5}});
  EXPECT_THAT(error_of([&] { open(); }), HasSubstr("generation_config.json: eos_token_id is 1.5"));
}

TEST_F(TokenizerFolder, AnEndWithoutANameIsThatOfTheConfig) {
  json document = bytes_json();
  document["added_tokens"] = json::array({added(256, "<end>")});
  write("tokenizer.json", document);
  EXPECT_THAT(error_of([&] { open(); }), HasSubstr("eos_token is absent"));
  write("config.json", {{"eos_token_id", 256}});
  EXPECT_EQ(open()->eos_id(), 256);
}

TEST_F(TokenizerFolder, GgufFilesKeepEveryEnd) {
  write("tokenizer.json", bytes_json());
  write("config.json", {{"eos_token_id", {256, 65, 66, 67, 68}}});
  const GgufKeys keys = open()->to_gguf(300);
  const auto value = [&](const std::string& name) {
    for (const auto& [key, stored] : keys)
      if (key == name) return stored;
    return GgufKey();
  };
  EXPECT_EQ(value("tokenizer.ggml.eos_token_id"), GgufKey(256U));
  EXPECT_EQ(value("tokenizer.ggml.eot_token_id"), GgufKey(65U));
  EXPECT_EQ(value("tokenizer.ggml.eom_token_id"), GgufKey(66U));
  GgufWriter(folder_ / "t.gguf", keys, {}).finish();
  const auto back = tokenizer_from_gguf(GgufFile((folder_ / "t.gguf").string()));
  EXPECT_EQ(back->stop_ids(), (Ids{256, 65, 66, 67, 68}));
  EXPECT_EQ(back->vocabulary_size(), 257);  // [PAD257] to [PAD299] only fill it up
  EXPECT_EQ(json::parse(back->to_hugging_face().generation_config_json)["eos_token_id"], json({256, 65, 66, 67, 68}));
}

TEST_F(TokenizerFolder, AddedTokensOfTheConfigsCount) {
  write("tokenizer.json", bytes_json());
  write("tokenizer_config.json",
        {{"added_tokens_decoder", {{"256", added(256, "</s>")}, {"258", added(258, "<|im_end|>")}}}});
  EXPECT_EQ(open()->encode("a<|im_end|>", true), (Ids{'a', 258}));
  EXPECT_EQ(tokenizer_from_json(open()->to_json(), "x")->encode("a<|im_end|>", true), (Ids{'a', 258}));
  write("tokenizer_config.json", {{"added_tokens_decoder", {{"256", added(256, "<other>")}}}});
  EXPECT_THAT(error_of([&] { open(); }),
              HasSubstr("added_tokens_decoder.256.content is \"<other>\", expected \"</s>\""));
  write("tokenizer_config.json", {{"added_tokens_decoder", {{"x", added(256, "<other>")}}}});
  EXPECT_THAT(error_of([&] { open(); }), HasSubstr("added_tokens_decoder.x: its key is no token's id"));
  // As older versions have it.
  fs::remove(folder_ / "tokenizer_config.json");
  write("added_tokens.json", {{"<|im_start|>", 257}});
  write("special_tokens_map.json",
        {{"eos_token", {{"content", "</s>"}}}, {"additional_special_tokens", {"<|im_start|>"}}});
  EXPECT_EQ(open()->encode("<|im_start|>", true), Ids{257});
  EXPECT_EQ(open()->encode("<|im_start|>").size(), 12U);  // text, for it is special
  EXPECT_EQ(open()->eos_id(), 256);
}

// transformers 5 keeps added tokens in tokenizer.json alone, with the old tokenizer.model beside it.
TEST_F(TokenizerFolder, SentencePieceHasTheAddedTokensBesideIt) {
  EXPECT_EQ(open_sentencepiece()->id_of("<|im_start|>"), std::nullopt);
  const std::int64_t size = open_sentencepiece()->vocabulary_size();
  write("tokenizer.json",
        {{"added_tokens", {added(2, "</s>"), added(size + 1, "<|im_start|>"), added(size, "word", false)}}});
  write("tokenizer_config.json", {{"eos_token", "<|im_start|>"}});
  const auto tokenizer = open_sentencepiece();
  EXPECT_EQ(tokenizer->id_of("<|im_start|>"), size + 1);
  EXPECT_EQ(tokenizer->eos_id(), size + 1);
  EXPECT_EQ(tokenizer->encode("<|im_start|>word", true),
            (Ids{static_cast<std::int32_t>(size) + 1, static_cast<std::int32_t>(size)}));
  EXPECT_EQ(tokenizer->name_of(static_cast<std::int32_t>(size)), "word");
  write("generation_config.json", {{"eos_token_id", {size + 1, 2}}});
  EXPECT_EQ(open_sentencepiece()->stop_ids(), (Ids{static_cast<std::int32_t>(size) + 1, 2}));
  const auto copy = tokenizer_from_json(open_sentencepiece()->to_json(), "checkpoint");
  EXPECT_EQ(copy->stop_ids(), (Ids{static_cast<std::int32_t>(size) + 1, 2}));
  fs::remove(folder_ / "tokenizer_config.json");
  write("tokenizer.json", {{"added_tokens", {added(size, "</s>")}}});
  EXPECT_THAT(error_of([&] { open_sentencepiece(); }), HasSubstr("</s> is added as token"));
}

TEST_F(TokenizerFolder, AFileOfTiktokenIsNamed) {
  write_file(folder_ / "tokenizer.model", "AA== 0\nAQ== 1\nIHRo 2\n");
  EXPECT_THAT(
      error_of([&] { sentencepiece_from_file(folder_ / "tokenizer.model"); }),
      HasSubstr("tokenizer.model: is a file of tiktoken (tokens in base64, a line each), expected a SentencePiece"));
}

TEST_F(TokenizerFolder, NamesOfSpecialTokensAreCounted) {
  write("tokenizer.json", bytes_json());
  write("tokenizer_config.json", {{"added_tokens_decoder", {{"257", added(257, "<u>", false)}}}});
  for (const bool parse_special : {false, true}) {
    EncodeCounts counts;
    open()->encode("</s>a</s><u></s", parse_special, &counts);
    EXPECT_EQ(counts.special_names, 2);
    counts = {};
    open_sentencepiece()->encode("<s> a</s> <unk> </s", parse_special, &counts);
    EXPECT_EQ(counts.special_names, 3);
  }
}

}  // namespace
}  // namespace limbeck::data
