// What is DeepSeek's own: the bias that experts are chosen by, latents in GGUF, layers behind the last, FP8.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/nn/student/student_init.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/family_reference.h"
#include "tests/support/golden_model.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::HuggingFaceModel;
using testing::document_of;
using testing::expect_near;
using testing::FamilyReference;
using testing::logits_of;

// By how many tokens chose each expert, whatever the layout; the bias has no gradient.
TEST(DeepSeek, BiasesOfTheSelectionMoveByTheLoad) {
  const FamilyReference reference("deepseek_v3");
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  std::map<std::string, std::vector<double>> expected;
  {
    const auto memory = core::Memory::cpu(1);
    nn::Transformer model(config, {.memory = memory, .dtype = DType::F64, .frozen = true});
    model.load(source);
    const data::TokenBatch samples = reference.samples();
    const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
    nn::RoutingLog log;
    nn::Pass pass = model.pass(batch);
    pass.routing = &log;
    core::Tape off(core::Tape::Mode::Off);
    model.forward(off, pass);
    for (const std::int64_t layer : {1, 2}) {
      const std::string moe = fmt::format("layers.{}.moe", layer);
      std::vector<double> load(9), bias = testing::values_of(model.parameter(moe + ".router.selection_bias").value);
      const auto chosen = core::host_values<std::int32_t>(*log.find(moe, batch.global_index));
      for (const std::int32_t e : chosen) ++load[static_cast<std::size_t>(e)];
      for (std::size_t e = 0; e < 9; ++e) {
        const double mean = static_cast<double>(chosen.size()) / 9;  // 192 of 9: none has it
        bias[e] += load[e] < mean ? 0.25 : -0.25;
      }
      expected[moe + ".router.selection_bias"] = bias;
    }
  }
  for (const auto& [layout, ranks] :
       {std::pair("dp1", 1), std::pair("dp2", 2), std::pair("tp2", 2), std::pair("tp2ep3", 6)})
    testing::run_ranks(ranks, [&, layout = layout, ranks = ranks](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1, /*sequence_parallel=*/ranks == 2);
      nn::Transformer model(config, rank.sharded(DType::F32));
      model.load(source);
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32);
      const optim::LanguageModelling objective;
      const launch::StepResult result =
          launch::forward_backward(rank, {model, nullptr, objective}, reference.samples(), {}, sync);
      model.move_selection_biases(result.expert_load, 0.25);
      for (const auto& [name, values] : expected) {
        const core::Parameter& bias = model.parameter(name);
        EXPECT_EQ(bias.slot, nullptr);
        EXPECT_EQ(model.state_dict().count(name), 1U);
        const std::vector<double> moved = testing::values_of(bias.value);
        ASSERT_EQ(moved.size(), values.size());
        for (std::size_t e = 0; e < values.size(); ++e) EXPECT_EQ(moved[e], values[e]) << layout << " " << name;
      }
    });
}

// The files of llama.cpp's converter, of today and as it once joined the matrices that widen keys and values.
TEST(DeepSeek, GgufIsReadInBothForms) {
  const FamilyReference reference("deepseek_v3");
  for (const char* name : {"deepseek_v3.gguf", "deepseek_v3_joined.gguf"}) {
    SCOPED_TRACE(name);
    const data::GgufModel model(std::make_shared<data::GgufFile>((testing::golden_folder() / "gguf" / name).string()));
    expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
                1e-5);
  }
}

// More layers behind the last than config.json says to predict further tokens.
TEST(DeepSeek, LayersBehindTheLastAreNotRead) {
  const FamilyReference reference("deepseek_v3");
  const testing::TemporaryFolder folder;
  auto json = nlohmann::json::parse(testing::read_file(reference.folder() / "config.json"));
  json["num_hidden_layers"] = 2;
  json["num_nextn_predict_layers"] = 0;
  testing::write_file(folder.path() / "config.json", json.dump());
  fs::copy_file(reference.folder() / "model.safetensors", folder.path() / "model.safetensors");
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.tensors().count("layers.2.mlp_norm.weight"), 0U);
  ASSERT_EQ(model.notices().size(), 1U);
  EXPECT_THAT(model.notices()[0], ::testing::HasSubstr("tensors of layers from 2 on"));
}

/// Fields of Kimi-K2-Instruct's config.json, and what is read of them.
constexpr const char* kimi_k2 = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config",
               "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
  "aux_loss_alpha": 0.001, "bos_token_id": 163584, "eos_token_id": 163585, "first_k_dense_replace": 1,
  "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432,
  "kv_lora_rank": 512, "max_position_embeddings": 131072, "model_type": "kimi_k2", "moe_intermediate_size": 2048,
  "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 384, "n_shared_experts": 1, "norm_topk_prob": true,
  "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 64,
  "num_nextn_predict_layers": 0, "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                          "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 50000.0, "routed_scaling_factor": 2.827, "scoring_func": "sigmoid", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
  "transformers_version": "4.48.3", "use_cache": true, "v_head_dim": 128, "vocab_size": 163840})";

TEST(DeepSeek, KimiK2IsOne) {
  const data::HuggingFaceConfig read = data::parse_hugging_face_config(kimi_k2, "config.json");
  EXPECT_STREQ(read.family->name, "DeepSeek-V3");
  ASSERT_TRUE(read.quantization);
  const nn::ModelConfig& config = read.model;
  EXPECT_EQ(config.moe.num_experts, 384);
  EXPECT_EQ(config.moe.experts_per_token, 8);
  EXPECT_EQ(config.moe.num_groups, 1);
  EXPECT_EQ(config.moe.weight_scale, 2.827);
  EXPECT_EQ(config.moe.shared_width, 2048);
  EXPECT_EQ(config.rope_base, 50000);
  EXPECT_EQ(config.rope_scaling.factor, 32);
  EXPECT_EQ(config.head_width, 192);
  EXPECT_FALSE(config.tied_head);
  EXPECT_NEAR(static_cast<double>(nn::count_parameters(config).total), 1.03e12, 0.01e12);  // "1T, 32B active"
  EXPECT_NEAR(static_cast<double>(nn::count_parameters(config).active), 32e9, 1e9);
  EXPECT_EQ(data::beyond_all_families(config, data::beyond_gguf), std::nullopt);
  const std::string back = data::hugging_face_config(config, {.dtype = DType::BF16});
  EXPECT_EQ(data::parse_hugging_face_config(back, "config.json").model, config);
  EXPECT_EQ(nlohmann::json::parse(back)["model_type"], "deepseek_v3");
}

/// Kimi K2's own words around the numbers of a tiny model.
nlohmann::json tiny_kimi_k2() {
  auto json = nlohmann::json::parse(kimi_k2);
  const auto tiny = nlohmann::json::parse(testing::read_file(FamilyReference("kimi_k2").folder() / "config_v4.json"));
  for (const char* size :
       {"vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "num_experts_per_tok", "n_routed_experts", "q_lora_rank",
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings"})
    json[size] = tiny[size];
  json["rope_scaling"]["original_max_position_embeddings"] = 10;
  return json;
}

TEST(DeepSeek, ATinyKimiK2IsReadByItsOwnConfig) {
  const FamilyReference reference("kimi_k2");
  auto json = tiny_kimi_k2();
  json.erase("quantization_config");
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "config.json", json.dump());
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.model_config(), HuggingFaceModel(reference.folder()).model_config());
  expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
              1e-5);
}

// As its checkpoint is: matrices of layers in block-scaled FP8, all else bfloat16 (tests/golden/make_fp8.py).
TEST(DeepSeek, ATinyKimiK2InFp8IsReadByItsOwnConfig) {
  const FamilyReference reference("../fp8/kimi_k2");
  auto json = tiny_kimi_k2();
  json["quantization_config"]["weight_block_size"] = {8, 8};  // which its matrices have several of
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "config.json", json.dump());
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.model_config(), HuggingFaceModel(reference.folder()).model_config());
  const std::vector<double> tokens = reference.values("/tokens");
  const data::TokenBatch text = testing::document_of({tokens.begin(), tokens.end()});
  expect_near(logits_of(model, model.model_config(), text, DType::F32), reference.values("/logits"), 1e-5);
  expect_near(logits_of(model, model.model_config(), text, DType::F64), reference.values("/logits"), 2e-7);
}

// A student of some layers keeps latents, groups, biases and experts, and is a model of the family.
TEST(DeepSeek, LayersMayBeLeftOut) {
  for (const char* family : {"deepseek_v2", "deepseek_v3"}) {
    const FamilyReference reference(family);
    const HuggingFaceModel teacher(reference.folder());
    const nn::ModelConfig config = nn::skip_layers(teacher.model_config(), {0, 2});
    EXPECT_EQ(config.moe.dense_layers, (std::vector<std::int64_t>{0}));
    const nn::LayerSkip skipped(teacher, 3, {0, 2});
    // The same by names in a file.
    const testing::TemporaryFolder folder;
    data::export_hugging_face(skipped, config, folder / "out", {.dtype = DType::F32});
    const data::SafetensorsFile of_student(folder / "out" / "model.safetensors"),
        of_teacher(reference.folder() / "model.safetensors");
    std::int64_t compared = 0;
    for (const auto& [name, entry] : of_student.tensors()) {
      std::string theirs = name;
      if (name.starts_with("model.layers.1.")) theirs.replace(0, 15, "model.layers.2.");
      const data::SafetensorsEntry& other = of_teacher.tensors().at(theirs);
      ASSERT_EQ(entry.shape, other.shape) << name;
      EXPECT_EQ(std::memcmp(entry.data, other.data, static_cast<std::size_t>(4 * entry.shape.numel())), 0) << name;
      ++compared;
    }
    EXPECT_GT(compared, 30);
    EXPECT_EQ(HuggingFaceModel(folder / "out").model_config(), config);
    EXPECT_THAT([&] { nn::Upcycled(skipped, config, {.experts = 4, .experts_per_token = 2}, true, 1); },
                ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr("has experts already")));
  }
}

TEST(DeepSeek, OtherModelsOfTheNameAreRefused) {
  const FamilyReference reference("deepseek_v3");
  const testing::TemporaryFolder folder;
  const auto original = nlohmann::json::parse(testing::read_file(reference.folder() / "config.json"));
  const auto refusal = [&](const char* patch) {
    auto json = original;
    json.merge_patch(nlohmann::json::parse(patch));
    testing::write_file(folder.path() / "config.json", json.dump());
    return testing::error_of([&] { data::read_hugging_face_config(folder.path()); });
  };
  EXPECT_EQ(refusal("{}"), "");
  for (const auto& [patch, what] : {std::pair(R"({"rope_interleave": false})", "rope_interleave is false"),
                                    std::pair(R"({"scoring_func": "softmax"})", "scoring_func is \"softmax\""),
                                    std::pair(R"({"attention_bias": true})", "attention_bias is true"),
                                    std::pair(R"({"moe_layer_freq": 2})", "moe_layer_freq is 2"),
                                    std::pair(R"({"first_k_dense_replace": 3})", "first_k_dense_replace is 3"),
                                    std::pair(R"({"n_shared_experts": null})", "n_shared_experts"),
                                    std::pair(R"({"n_group": 2})", "moe.num_groups is 2, expected a divisor"),
                                    std::pair(R"({"topk_group": 1})", "moe.experts_per_token is 4, expected at most 3"),
                                    std::pair(R"({"qk_rope_head_dim": 5})", "latent.rope_width is 5"),
                                    std::pair(R"({"num_key_value_heads": 1})", "num_kv_heads is 1")})
    EXPECT_THAT(refusal(patch), ::testing::HasSubstr(what));
}

// Blocks of 5 rows and 3 columns, which end nowhere with a head, a latent or a matrix (tests/golden/make_fp8.py).
TEST(DeepSeek, BlockScaledFp8IsReadAsItsProducts) {
  const fs::path folder = testing::golden_folder() / "fp8";
  const HuggingFaceModel model(folder / "deepseek_v3");
  const testing::TemporaryFolder plain;
  fs::copy_file(folder / "../families/deepseek_v3/config.json", plain / "config.json");
  fs::copy_file(folder / "dequantised.safetensors", plain / "model.safetensors");
  const HuggingFaceModel expected(plain.path());
  EXPECT_EQ(model.model_config(), expected.model_config());
  ASSERT_EQ(model.tensors().size(), expected.tensors().size());
  for (const auto& [name, info] : expected.tensors())
    for (const DType dtype : {DType::F32, DType::F64, DType::BF16}) {
      const auto read = [&, &name = name, &info = info](const HuggingFaceModel& from) {
        core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), dtype, info.shape));
        from.read(name, entry);
        return testing::values_of(dtype == DType::BF16 ? entry.tensor.to(DType::F32) : entry.tensor);
      };
      EXPECT_EQ(read(model), read(expected)) << name << " " << core::name_of(dtype);
    }
  // A box that begins and ends within blocks.
  core::StateEntry box{model.tensors().at("layers.1.attention.q_b.weight").shape,
                       {7, 4},
                       Tensor::zeros(core::Memory::cpu(1), DType::F32, {9, 5}),
                       true};
  core::StateEntry whole = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, {30, 11}));
  model.read("layers.1.attention.q_b.weight", box);
  expected.read("layers.1.attention.q_b.weight", whole);
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 5; ++j)
      EXPECT_EQ(box.tensor.data<float>()[i * 5 + j], whole.tensor.data<float>()[(7 + i) * 11 + 4 + j]);
}

TEST(DeepSeek, Fp8ThatIsNotWhatItSaysIsRefused) {
  const fs::path source = testing::golden_folder() / "fp8" / "deepseek_v3";
  const testing::TemporaryFolder folder;
  fs::copy_file(source / "model.safetensors", folder / "model.safetensors");
  const auto original = nlohmann::json::parse(testing::read_file(source / "config.json"));
  const auto refusal = [&](const char* patch) {
    auto json = original;
    json.merge_patch(nlohmann::json::parse(patch));
    testing::write_file(folder.path() / "config.json", json.dump());
    return testing::error_of([&] { HuggingFaceModel{folder.path()}; });
  };
  EXPECT_EQ(refusal("{}"), "");
  for (const auto& [patch, what] :
       {std::pair(R"({"quantization_config": {"quant_method": "quip"}})", "quant_method is \"quip\""),
        std::pair(R"({"quantization_config": {"fmt": "e5m2"}})", "fmt is \"e5m2\""),
        std::pair(R"({"quantization_config": {"weight_block_size": [5]}})", "weight_block_size is [5]"),
        std::pair(R"({"quantization_config": {"weight_block_size": [5, 0]}})", "weight_block_size is [5,0]"),
        std::pair(R"({"quantization_config": {"weight_block_size": [5, 4]}})", "_scale_inv has shape"),
        std::pair(R"({"quantization_config": null})", "float8 (e4m3)")})
    EXPECT_THAT(refusal(patch), ::testing::HasSubstr(what));
}

}  // namespace
}  // namespace limbeck
