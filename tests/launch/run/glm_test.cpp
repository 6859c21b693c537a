// What is GLM-4.5's own: what a file may have or lack, layers behind the last, a part of a head that turns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "core/nn/transformer.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "tests/support/family_reference.h"
#include "tests/support/golden_model.h"
#include "tests/support/kept_state.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::HuggingFaceModel;
using testing::expect_near;
using testing::FamilyReference;
using testing::logits_of;
using Json = nlohmann::json;

Json config_of(const char* family, const char* file = "config.json") {
  return Json::parse(testing::read_file(FamilyReference(family).folder() / file));
}

nn::ModelConfig read(const Json& json) { return data::parse_hugging_face_config(json.dump(), "config.json").model; }

// The file that llama.cpp's converter makes of a directory with a layer behind the last.
TEST(Glm, GgufWithALayerBehindIsRead) {
  const FamilyReference reference("glm4_moe");
  const fs::path path = testing::golden_folder() / "gguf" / "glm4_moe.gguf";
  const data::GgufModel model(std::make_shared<data::GgufFile>(path.string()));
  EXPECT_EQ(model.model_config().num_layers, 2);
  expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
              1e-5);
}

// Of layers that the file does not count nobody knows what they are.
TEST(Glm, GgufWithLayersThatItDoesNotCountIsRefused) {
  std::string bytes = testing::read_file(testing::golden_folder() / "gguf" / "glm4_moe.gguf");
  const auto set = [&](const std::string& key, std::uint32_t value) {
    const std::size_t at = bytes.find(key);
    ASSERT_NE(at, std::string::npos) << key;
    std::memcpy(bytes.data() + at + key.size() + 4, &value, sizeof value);  // behind the type
  };
  set("glm4moe.block_count", 2);
  set("glm4moe.nextn_predict_layers", 0);
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "m.gguf", bytes);
  EXPECT_THAT(
      testing::error_of([&] { data::GgufModel(std::make_shared<data::GgufFile>((folder / "m.gguf").string())); }),
      ::testing::AllOf(::testing::HasSubstr("tensor blk.2."), ::testing::HasSubstr("has no place")));
}

// As config.json says of GLM-4.5: a layer that predicts, with copies of embedding and head.
TEST(Glm, ALayerThatPredictsComesBack) {
  nn::ModelConfig config = HuggingFaceModel(FamilyReference("glm4_moe").folder()).model_config();
  config.num_predict_layers = 1;
  nn::Transformer model(config, {.memory = core::Memory::cpu(1), .with_predict = true});
  model.init_random(1);
  const testing::KeptState kept(model.state_dict());
  const testing::TemporaryFolder folder;
  data::export_hugging_face(kept, config, folder / "out", {.dtype = DType::F32});
  const HuggingFaceModel back(folder / "out");
  EXPECT_EQ(back.model_config(), config);
  ASSERT_EQ(back.tensors().size(), kept.tensors().size());
  for (const auto& [name, info] : kept.tensors()) {
    const auto read = [&name = name, &info = info](const core::StateReader& from) {
      core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, info.shape));
      from.read(name, entry);
      return testing::values_of(entry.tensor);
    };
    EXPECT_EQ(read(back), read(kept)) << name;
  }
}

// A directory with the model in one file, and its tensors as those of layer `layer` in another, which the config does
// not speak of.
TEST(Glm, LayersBehindTheLastAreNotRead) {
  const FamilyReference reference("glm4_moe");
  const testing::TemporaryFolder folder;
  Json config = config_of("glm4_moe");
  config["num_nextn_predict_layers"] = 0;
  testing::write_file(folder / "config.json", config.dump());
  const std::string bytes = testing::read_file(reference.folder() / "model.safetensors");
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  const Json head = Json::parse(bytes.substr(sizeof size, size));
  const auto write_of_layer = [&](const std::string& layer) {
    Json files, other = {{"__metadata__", {{"format", "pt"}}}};
    for (const auto& [name, entry] : head.items()) {
      if (name == "__metadata__") continue;
      files[name] = "a.safetensors";
      files[layer + name] = "b.safetensors";
      other[layer + name] = entry;
    }
    const std::string text = other.dump();
    const std::uint64_t length = text.size();
    testing::write_file(folder / "a.safetensors", bytes);
    testing::write_file(folder / "b.safetensors", std::string(reinterpret_cast<const char*>(&length), sizeof length) +
                                                      text + bytes.substr(sizeof size + size));
    testing::write_file(folder / "model.safetensors.index.json", Json({{"weight_map", files}}).dump());
  };
  write_of_layer("model.layers.2.");
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.tensors().size(), HuggingFaceModel(reference.folder()).tensors().size());
  ASSERT_EQ(model.notices().size(), 1U);
  EXPECT_THAT(model.notices()[0], ::testing::HasSubstr("60 tensors of layers from 2 on"));
  write_of_layer("model.layers.1.");
  EXPECT_THAT([&] { HuggingFaceModel{folder.path()}; },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("has no place in this architecture")));
}

// Where config.json says nothing, as transformers 4.57 and 5.24 have it.
TEST(Glm, WhatIsNotSaidIsAsInTransformers) {
  Json json = config_of("glm4_moe_air", "config_v4.json");
  json["num_attention_heads"] = 16;
  json["n_routed_experts"] = 4;
  for (const char* name : {"attention_bias", "use_qk_norm", "partial_rotary_factor", "n_group", "topk_group",
                           "n_shared_experts", "first_k_dense_replace", "norm_topk_prob", "routed_scaling_factor",
                           "rope_theta", "rope_scaling", "rms_norm_eps", "num_key_value_heads", "tie_word_embeddings"})
    json.erase(name);
  const nn::ModelConfig config = read(json);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.head_norm, nn::HeadNorm::None);
  EXPECT_EQ(config.turning_width(), 4);
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope_base, 10000);
  EXPECT_FALSE(config.tied_head);
  const nn::MoeConfig& moe = config.moe;
  EXPECT_EQ(moe.num_groups, 1);
  EXPECT_EQ(moe.groups_per_token, 1);
  EXPECT_EQ(moe.shared_width, 5);
  EXPECT_EQ(moe.dense_layers, (std::vector<std::int64_t>{0}));
  EXPECT_TRUE(moe.renormalise);
  EXPECT_EQ(moe.weight_scale, 1);
}

// The part of a head that turns stands at the top, or in rope_parameters, which counts where both say it.
TEST(Glm, ThePartThatTurnsIsSaidInEitherPlace) {
  Json json = config_of("glm4_moe");
  EXPECT_EQ(read(json).rotary_width, 6);
  json["rope_parameters"].erase("partial_rotary_factor");
  EXPECT_EQ(read(json).rotary_width, 4);
  json["partial_rotary_factor"] = 0.25;
  EXPECT_EQ(read(json).rotary_width, 2);
  json["rope_parameters"]["partial_rotary_factor"] = 1.0;
  EXPECT_EQ(read(json).rotary_width, 0);
  EXPECT_EQ(read(json).turning_width(), 8);
}

/// A model without tensors of some names, in both formats and back.
class GlmWithout : public ::testing::Test {
 protected:
  void expect_back(const Json& json, const std::function<bool(const std::string&)>& is_left_out) {
    const FamilyReference reference("glm4_moe");
    const HuggingFaceModel whole(reference.folder());
    nn::ModelConfig config = read(json);
    config.num_predict_layers = 0;  // of which the folder has none
    const testing::TemporaryFolder folder;
    data::export_hugging_face(whole, config, folder / "out", {.dtype = DType::F32});
    const HuggingFaceModel directory(folder / "out");
    EXPECT_EQ(directory.model_config(), config);
    for (const auto& [name, info] : whole.tensors())
      EXPECT_EQ(directory.tensors().contains(name), !is_left_out(name)) << name;
    data::export_gguf(whole, config, folder / "m.gguf", {.dtype = DType::F32});
    const data::GgufModel file(std::make_shared<data::GgufFile>((folder / "m.gguf").string()));
    EXPECT_EQ(file.model_config().attention_bias, config.attention_bias);
    EXPECT_EQ(file.model_config().head_norm, config.head_norm);
    expect_near(logits_of(file, file.model_config(), reference.samples(), DType::F32),
                logits_of(directory, config, reference.samples(), DType::F64), 1e-5);
  }
};

TEST_F(GlmWithout, BiasesComesBack) {
  Json json = config_of("glm4_moe");
  json["attention_bias"] = false;
  expect_back(json, [](const std::string& name) {
    return name.ends_with(".bias") && name.find("attention.") != std::string::npos;
  });
}

TEST_F(GlmWithout, NormsOfQueriesAndKeysComesBack) {
  Json json = config_of("glm4_moe");
  json["use_qk_norm"] = false;
  expect_back(
      json, [](const std::string& name) { return name.ends_with("q_norm.weight") || name.ends_with("k_norm.weight"); });
}

// GLM-4-32B has none.
TEST(Glm, DenseModelsMayLackBiases) {
  const FamilyReference reference("glm4");
  const HuggingFaceModel whole(reference.folder());
  Json json = config_of("glm4");
  json["attention_bias"] = false;
  const nn::ModelConfig config = read(json);
  EXPECT_FALSE(config.attention_bias);
  const testing::TemporaryFolder folder;
  data::export_hugging_face(whole, config, folder / "out", {.dtype = DType::F32});
  data::export_gguf(whole, config, folder / "m.gguf", {.dtype = DType::F32});
  const HuggingFaceModel directory(folder / "out");
  const data::GgufModel file(std::make_shared<data::GgufFile>((folder / "m.gguf").string()));
  EXPECT_EQ(directory.model_config(), config);
  EXPECT_FALSE(file.model_config().attention_bias);
  EXPECT_EQ(file.tensors().size(), directory.tensors().size());
  expect_near(logits_of(file, file.model_config(), reference.samples(), DType::F32),
              logits_of(directory, config, reference.samples(), DType::F64), 1e-5);
}

TEST(Glm, WhatADenseModelDoesNotSayIsAsInTransformers) {
  Json json = config_of("glm4");
  for (const char* name : {"attention_bias", "head_dim", "num_key_value_heads", "rms_norm_eps", "rope_parameters"})
    json.erase(name);
  const nn::ModelConfig config = read(json);
  EXPECT_TRUE(config.attention_bias);
  EXPECT_EQ(config.head_width, 128);
  EXPECT_EQ(config.turning_width(), 64);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.norm_eps, 1.5625e-7);
  EXPECT_EQ(config.rope_base, 10000);
}

TEST(Glm, MayHaveExpertsInEveryLayer) {
  Json json = config_of("glm4_moe");
  json["first_k_dense_replace"] = 0;
  const nn::ModelConfig config = read(json);
  EXPECT_EQ(config.mlp_width, 14);
  EXPECT_TRUE(config.moe.dense_layers.empty());
  EXPECT_EQ(data::beyond_all_families(config, data::beyond_gguf), std::nullopt);
  const Json back = Json::parse(data::hugging_face_config(config, {.dtype = DType::F32}));
  EXPECT_EQ(read(back), config);
}

TEST(Glm, OtherModelsOfTheNameAreRefused) {
  const Json original = config_of("glm4_moe");
  const auto refusal = [&](const char* patch) {
    Json json = original;
    json.merge_patch(Json::parse(patch));
    return testing::error_of([&] { read(json); });
  };
  EXPECT_EQ(refusal("{}"), "");
  for (const auto& [patch, what] :
       {std::pair(R"({"hidden_act": "gelu"})", "hidden_act is \"gelu\""),
        std::pair(R"({"attention_bias": 1})", "attention_bias is 1"),
        std::pair(R"({"first_k_dense_replace": 2})", "first_k_dense_replace is 2"),
        std::pair(R"({"first_k_dense_replace": 0, "intermediate_size": 0})", "intermediate_size is 0"),
        std::pair(R"({"n_shared_experts": 0})", "n_shared_experts is 0"),
        std::pair(R"({"n_group": 2})", "moe.num_groups is 2, expected a divisor"),
        std::pair(R"({"n_group": 9})", "moe.num_groups is 9, expected groups of two experts or more"),
        std::pair(R"({"topk_group": 1})", "moe.experts_per_token is 4, expected at most 3"),
        std::pair(R"({"rope_parameters": {"rope_type": "dynamic"}})", "rope_type is \"dynamic\""),
        std::pair(R"({"rope_parameters": {"partial_rotary_factor": 1.5}})", "partial_rotary_factor is 1.5"),
        std::pair(R"({"rope_parameters": {"partial_rotary_factor": 0.4}})", "rotary_width is 3, expected an even")})
    EXPECT_THAT(refusal(patch), ::testing::HasSubstr(what));
}

}  // namespace
}  // namespace limbeck
