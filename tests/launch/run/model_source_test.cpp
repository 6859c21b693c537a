#include "launch/run/model_source.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/nn/transformer.h"
#include "data/checkpoints/checkpoint.h"
#include "launch/config/config.h"
#include "launch/run/run_directory.h"
#include "tests/support/places.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

nn::ModelConfig small_moe() {
  nn::ModelConfig c{.vocabulary = 257,
                    .width = 8,
                    .num_layers = 2,
                    .num_heads = 2,
                    .num_kv_heads = 1,
                    .head_width = 4,
                    .mlp_width = 12,
                    .max_positions = 64,
                    .norm_eps = 1e-6,
                    .rope_base = 5e5,
                    .tied_head = true,
                    .moe = {}};
  c.moe = {.num_experts = 4,
           .experts_per_token = 3,
           .expert_width = 5,
           .renormalise = false,
           .weight_scale = 2.5,
           .dense_layers = {1}};
  return c;
}

/// A checkpoint of the small model, `more` tensors beside it.
fs::path make_checkpoint(const fs::path& checkpoints, std::int64_t step,
                         const std::string& extra = checkpoint_extra(small_moe(), *data::byte_tokenizer(),
                                                                     {{"tokens", 5}}),
                         const std::vector<std::string>& more = {}) {
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(small_moe(), {.memory = memory});
  core::StateDict state = model.state_dict();
  for (const auto& name : more) state[name] = core::StateEntry::whole(Tensor::zeros(memory, DType::F32, {3}));
  const fs::path temporary = data::begin_checkpoint(checkpoints, step);
  const std::vector<data::RankFileInfo> infos{data::write_rank_file(temporary, 0, step, state)};
  return data::finish_checkpoint(temporary, infos, extra);
}

TEST(ModelSource, ArchitectureComesBackFromJson) {
  const nlohmann::json json = nlohmann::json::parse(to_json(small_moe()).dump());
  EXPECT_EQ(model_config_from_json(json, "x"), small_moe());
  EXPECT_EQ(json["moe"]["dense_layers"], nlohmann::json({1}));
}

TEST(ModelSource, BadArchitectureIsNamed) {
  nlohmann::json json = to_json(small_moe());
  const auto error_with = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json changed = json;
    changed[field] = value;
    return error_of([&] { model_config_from_json(changed, "here"); });
  };
  EXPECT_THAT(error_with("num_heads", 0), HasSubstr("here: model.num_heads is 0"));
  EXPECT_THAT(error_with("width", "wide"), HasSubstr("here: width is \"wide\", expected a whole number"));
  EXPECT_THAT(error_with("width", 1e300), HasSubstr("here: width is 1e+300, expected a whole number"));
  EXPECT_THAT(error_with("moe", 3), HasSubstr("here: "));
  EXPECT_THAT(error_with("norm_eps", 1e300), HasSubstr("model.norm_eps is 1e+300, expected"));
  EXPECT_THAT(error_with("norm_eps", 1e-300), HasSubstr("model.norm_eps is 1e-300, expected"));
  EXPECT_THAT(error_with("rope_base", 1e300), HasSubstr("model.rope_base is 1e+300, expected"));
  json.erase("width");
  EXPECT_THAT(error_of([&] { model_config_from_json(json, "here"); }), HasSubstr("width"));
  EXPECT_THAT(error_of([&] { model_config_from_json({1, 2}, "here"); }), HasSubstr("here: "));
}

TEST(ModelSource, OpensACheckpointAndTheNewestGoodOneOfARun) {
  const TemporaryFolder folder;
  RunConfig config;
  config.output.dir = (folder.path() / "run").string();
  const RunDirectory run = RunDirectory::open(config, false);
  run.write_config(config);
  EXPECT_THAT(error_of([&] { open_model(run.path()); }), HasSubstr("no good checkpoint"));
  make_checkpoint(run.checkpoints(), 3);
  const fs::path newest = make_checkpoint(run.checkpoints(), 12);

  const ModelSource source = open_model(run.path());
  EXPECT_EQ(source.kind, ModelKind::Checkpoint);
  EXPECT_EQ(source.path, newest);
  EXPECT_EQ(source.step, 12);
  EXPECT_EQ(source.config, small_moe());
  EXPECT_EQ(source.trainer["tokens"], 5);
  EXPECT_EQ(source.require_tokenizer().vocabulary_size(), 257);
  EXPECT_TRUE(source.reader->tensors().contains("norm.weight"));

  fs::resize_file(newest / "index.h5", 10);
  EXPECT_EQ(open_model(run.path()).step, 3);
  EXPECT_THAT(error_of([&] { open_model(newest); }), HasSubstr("index.h5"));
}

TEST(ModelSource, ACheckpointHasTheTensorsOfItsModelAlone) {
  const TemporaryFolder folder;
  const std::string extra = checkpoint_extra(small_moe(), *data::byte_tokenizer(), {{"tokens", 5}});
  EXPECT_EQ(open_model(make_checkpoint(folder.path(), 1, extra, {"optimizer/norm.weight/m"})).step, 1);
  EXPECT_THAT(error_of([&] { open_model(make_checkpoint(folder.path(), 2, extra, {"layers.2.norm.weight"})); }),
              HasSubstr("step_2: its tensors have"));
  nn::ModelConfig fewer = small_moe();
  fewer.num_layers = 1;
  fewer.moe.dense_layers = {};
  const std::string short_extra = checkpoint_extra(fewer, *data::byte_tokenizer(), {{"tokens", 5}});
  EXPECT_THAT(error_of([&] { open_model(make_checkpoint(folder.path(), 3, short_extra)); }),
              HasSubstr("the parameters of its model"));
}

TEST(ModelSource, WhatIsNoModelIsNamed) {
  const TemporaryFolder folder;
  EXPECT_THROW(open_model(folder.path() / "missing"), core::UsageError);
  EXPECT_THAT(error_of([&] { open_model(folder.path()); }), HasSubstr("is no model"));
  testing::write_file(folder.path() / "text", "hello");
  EXPECT_THAT(error_of([&] { open_model(folder.path() / "text"); }), HasSubstr("is no model"));
  testing::write_file(folder.path() / "empty", "");
  EXPECT_THAT(error_of([&] { open_model(folder.path() / "empty"); }), HasSubstr("is empty, expected a checkpoint"));
  testing::write_file(folder.path() / "short.gguf", "GGUF");
  EXPECT_THAT(error_of([&] { open_model(folder.path() / "short.gguf"); }), HasSubstr("short.gguf"));
  EXPECT_TRUE(is_model_file(folder.path() / "short.gguf"));
  for (const char* name : {"text", "empty", "missing", ""}) EXPECT_FALSE(is_model_file(folder.path() / name)) << name;
}

TEST(ModelSource, AModelInAnotherFormatIsNamed) {
  const TemporaryFolder folder;
  for (const auto& [head, what] : std::vector<std::pair<std::string, std::string>>{
           {"lmgg", "is a GGML file, the format before GGUF"},
           {std::string("tjgg\3\0\0\0", 8), "is a GGML file, the format before GGUF"},
           {"PK\3\4", "is PyTorch's own format"},
           {"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"},
           {"<!DOCTYPE html>", "is an HTML page"}}) {
    testing::write_file(folder.path() / "model.bin", head);
    EXPECT_THAT(error_of([&] { open_model(folder.path() / "model.bin"); }), HasSubstr(what));
  }
  testing::write_file(folder.path() / "m.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10));
  EXPECT_THAT(error_of([&] { open_model(folder.path() / "m.safetensors"); }), HasSubstr("a safetensors file alone"));
  for (const auto& [name, what] : std::vector<std::pair<std::string, std::string>>{
           {"params.json", "holds params.json: Meta's or Mistral's own format"},
           {"adapter_config.json", "holds a LoRA adapter without its model"},
           {"x.gguf", "holds x.gguf: give that file"}}) {
    const TemporaryFolder model;
    testing::write_file(model.path() / name, "{}");
    EXPECT_THAT(error_of([&] { open_model(model.path()); }), HasSubstr(what));
  }
}

TEST(ModelSource, ACheckpointOfAnotherMakerIsNamed) {
  const testing::TemporaryFolder folder;
  for (const char* extra : {"{}", "not json"}) {
    const fs::path checkpoint = make_checkpoint(folder.path(), 1, extra);
    EXPECT_THAT(error_of([&] { open_model(checkpoint); }), HasSubstr(checkpoint.string()));
  }
}

// Protobuf and SentencePiece, which has another protobuf inside, do not meet in one program.
TEST(ModelSource, ConfigsAndSentencePieceWorkSideBySide) {
  const TemporaryFolder folder;
  const fs::path golden = testing::golden_folder() / "sentencepiece";
  const auto parse = [](const std::string& seed) {
    return parse_config(fmt::format("train {{ seed: {} }} data {{ text: 'a' text: 'b' }}", seed), "test");
  };
  EXPECT_EQ(parse("5").train.seed, 5U);
  for (const char* name : {"bpe.model", "bpe.gguf"}) {
    const auto tokenizer = open_tokenizer((golden / name).string());
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("side by side")), "side by side");
  }
  EXPECT_EQ(parse("7").data.text.size(), 2U);
  EXPECT_THAT(error_of([&] { parse("x"); }), HasSubstr("test:1:15: Expected integer"));
  testing::write_file(folder.path() / "bad.model", "GGUX");
  EXPECT_THAT(error_of([&] { open_tokenizer((folder.path() / "bad.model").string()); }),
              HasSubstr("bad.model: byte 0"));
}

TEST(ModelSource, ATokenizerIsAFileOrAFolder) {
  const TemporaryFolder folder;
  const data::HuggingFaceTokenizer files = data::byte_tokenizer()->to_hugging_face();
  testing::write_file(folder.path() / "tokenizer.json", files.tokenizer_json);
  EXPECT_EQ(open_tokenizer(folder.path().string())->encode("a"), std::vector<std::int32_t>{'a'});
  EXPECT_EQ(open_tokenizer((folder.path() / "tokenizer.json").string())->eos_id(), 256);
  testing::write_file(folder.path() / "tokenizer.json", "{}");
  EXPECT_THAT(error_of([&] { open_tokenizer(folder.path().string()); }), HasSubstr("tokenizer.json: model is absent"));
}

TEST(ModelSource, AHuggingFaceFolderHasItsTokenizer) {
  const TemporaryFolder folder;
  const fs::path source = testing::golden_path("safetensors/mixtral");
  fs::copy(source, folder.path() / "hf", fs::copy_options::recursive);
  EXPECT_THAT(error_of([&] { (void)open_model(folder.path() / "hf").require_tokenizer(); }),
              HasSubstr("tokenizer.json"));
  const data::HuggingFaceTokenizer files = data::byte_tokenizer()->to_hugging_face();
  testing::write_file(folder.path() / "hf/tokenizer.json", files.tokenizer_json + "\n");
  const ModelSource model = open_model(folder.path() / "hf");
  EXPECT_EQ(model.require_tokenizer().vocabulary_size(), 257);
  EXPECT_EQ(model.tokenizer->to_hugging_face().tokenizer_json, files.tokenizer_json + "\n");  // goes out as it came
  testing::write_file(folder.path() / "hf/tokenizer.json", R"({"model": {"type": "Unigram"}})");
  const ModelSource without = open_model(folder.path() / "hf");  // the weights are there all the same
  EXPECT_THAT(error_of([&] { (void)without.require_tokenizer(); }),
              HasSubstr("tokenizer.json: model.type is \"Unigram\", expected BPE"));
}

TEST(ModelSource, BytesIsATokenizer) { EXPECT_EQ(open_tokenizer("bytes")->vocabulary_size(), 257); }

}  // namespace
}  // namespace limbeck::launch
