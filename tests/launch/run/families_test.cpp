// Models of families that people have, as transformers saved them, against what transformers computes in float64
// (tests/golden/make_families.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/nn/generation.h"
#include "core/nn/student/student_init.h"
#include "core/ops/head_loss.h"
#include "data/files/hdf5_file.h"
#include "data/models/families/family.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
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

class Reference {
 public:
  explicit Reference(const std::string& family)
      : folder_(testing::golden_folder() / "families" / family),
        file_(data::Hdf5File::open((folder_ / "reference.h5").string())) {}

  const fs::path& folder() const { return folder_; }
  std::vector<double> values(const std::string& path) const {
    const core::Shape shape = file_.dataset_info(path).shape;
    std::vector<double> result(static_cast<std::size_t>(shape.numel()));
    file_.read(path, DType::F64, result.data(), std::vector<std::int64_t>(static_cast<std::size_t>(shape.rank()), 0),
               shape);
    return result;
  }
  data::TokenBatch samples() const {
    const auto column = [&](const char* path) {
      const std::vector<double> v = values(path);
      return std::vector<std::int32_t>(v.begin(), v.end());
    };
    const core::Shape shape = file_.dataset_info("/tokens").shape;
    return {shape[0], shape[1], column("/tokens"), column("/targets"), column("/positions"), column("/documents")};
  }
  /// By our names: the file has them in the order of the weights.
  std::map<std::string, std::vector<double>> gradients() const {
    const testing::TemporaryFolder folder;
    fs::copy_file(folder_ / "config.json", folder / "config.json");
    const std::string weights = testing::read_file(folder_ / "model.safetensors");
    std::uint64_t header = 0;
    std::memcpy(&header, weights.data(), sizeof header);
    const std::vector<double> values = this->values("/gradients");
    const std::vector<float> narrow(values.begin(), values.end());
    testing::write_file(
        folder / "model.safetensors",
        weights.substr(0, 8 + header) + std::string(reinterpret_cast<const char*>(narrow.data()), 4 * narrow.size()));
    const HuggingFaceModel model(folder.path());
    std::map<std::string, std::vector<double>> all;
    for (const auto& [name, info] : model.tensors()) {
      core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F64, info.shape));
      model.read(name, entry);
      all[name] = testing::values_of(entry.tensor);
    }
    return all;
  }

 private:
  fs::path folder_;
  data::Hdf5File file_;
};

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double x : values) result = std::max(result, std::abs(x));
  return result;
}

void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(values.size(), expected.size());
  const double allowed = tolerance * largest(expected);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], allowed) << i;
}

/// Of all tokens of the samples, packed as they are.
std::vector<double> logits_of(const core::StateReader& source, const nn::ModelConfig& config,
                              const data::TokenBatch& samples, DType dtype) {
  const auto memory = core::Memory::cpu(2);
  nn::Transformer model(config, {.memory = memory, .dtype = dtype, .frozen = true});
  model.load(source);
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  return testing::values_of(core::logits_of(hidden, model.head().value));
}

class Families : public ::testing::TestWithParam<const char*> {
 protected:
  const Reference reference{GetParam()};
};

TEST_P(Families, LogitsAreThoseOfTransformers) {
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> expected = reference.values("/logits");
  const data::TokenBatch samples = reference.samples();
  expect_near(logits_of(model, model.model_config(), samples, DType::F32), expected, 1e-5);
  expect_near(logits_of(model, model.model_config(), samples, DType::F64), expected, 2e-7);  // stored in float32
}

// The same model, as transformers 4 writes its config.
TEST_P(Families, ConfigsOfVersion4AreTheSame) {
  const testing::TemporaryFolder folder;
  fs::copy_file(reference.folder() / "config_v4.json", folder / "config.json");
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  EXPECT_EQ(HuggingFaceModel(folder.path()).model_config(), HuggingFaceModel(reference.folder()).model_config());
}

TEST_P(Families, GradientsAreThoseOfTransformersUnderAnyLayout) {
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const std::map<std::string, std::vector<double>> expected = reference.gradients();
  const double loss = reference.values("/loss").at(0);
  std::vector<std::pair<const char*, int>> layouts = {{"dp1", 1}, {"dp2", 2}};
  if (config.head_norm != nn::HeadNorm::AllHeads) layouts.emplace_back("tp2", 2);
  const bool by_two = config.moe.num_experts % 2 == 0;
  if (config.moe.num_experts > 0) layouts.emplace_back(by_two ? "ep2" : "ep3", by_two ? 2 : 3);
  if (config.moe.num_experts > 0 && config.head_norm != nn::HeadNorm::AllHeads)
    layouts.emplace_back(by_two ? "tp2ep2" : "tp2ep3", by_two ? 4 : 6);
  for (const auto& [layout, ranks] : layouts)
    for (const DType dtype : {DType::F32, DType::F64}) {
      SCOPED_TRACE(fmt::format("{} {}", layout, core::name_of(dtype)));
      testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout, 1, /*sequence_parallel=*/ranks == 2);
        nn::Transformer model(config, rank.sharded(dtype));
        model.load(source);
        parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype);
        const optim::LanguageModelling objective;
        const launch::StepResult result =
            launch::forward_backward(rank, {model, nullptr, objective}, reference.samples(), {}, sync);
        EXPECT_NEAR(result.loss(), loss, (dtype == DType::F32 ? 1e-5 : 1e-12) * loss);
        EXPECT_LE(testing::worst_gradient_error(model.parameters(), expected), dtype == DType::F32 ? 1e-4 : 1e-6);
      });
    }
}

// From the cache, a token at a time, the text goes on as by passes over all of it.
TEST_P(Families, DecodeAsTheyRead) {
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .dtype = DType::F32, .frozen = true});
  model.load(source);
  std::vector<std::int32_t> text = {5, 9, 31, 7};
  const std::vector<std::int32_t> decoded = nn::generate(model, text, {.max_tokens = 20});
  for (const std::int32_t token : decoded) {
    data::TokenBatch samples{1, std::ssize(text), text, std::vector<std::int32_t>(text.size(), -1), {}, {}};
    for (std::size_t i = 0; i < text.size(); ++i) samples.positions.push_back(static_cast<std::int32_t>(i));
    samples.documents.resize(text.size());
    const std::vector<double> logits = logits_of(source, config, samples, DType::F32);
    const auto last = logits.end() - config.vocabulary;
    EXPECT_EQ(token, std::max_element(last, logits.end()) - last);
    text.push_back(token);
  }
  EXPECT_EQ(decoded.size(), 20U);
}

TEST_P(Families, ComeBackBitForBit) {
  const HuggingFaceModel model(reference.folder());
  const testing::TemporaryFolder folder;
  data::export_hugging_face(model, model.model_config(), folder / "out", {.dtype = DType::F32});
  const HuggingFaceModel again(folder / "out");
  EXPECT_EQ(again.model_config(), model.model_config());
  const data::SafetensorsFile before(reference.folder() / "model.safetensors"),
      after(folder / "out" / "model.safetensors");
  ASSERT_EQ(after.tensors().size(), before.tensors().size());
  for (const auto& [name, entry] : before.tensors()) {
    ASSERT_TRUE(after.tensors().contains(name)) << name;
    const data::SafetensorsEntry& other = after.tensors().at(name);
    ASSERT_EQ(other.shape, entry.shape) << name;
    std::vector<float> a(static_cast<std::size_t>(entry.shape.numel())), b = a;
    data::SafetensorsFile::read(entry, 0, entry.shape.numel(), DType::F32, reinterpret_cast<std::byte*>(a.data()));
    data::SafetensorsFile::read(other, 0, entry.shape.numel(), DType::F32, reinterpret_cast<std::byte*>(b.data()));
    EXPECT_EQ(a, b) << name;
  }
}

// GGUF says less than config.json; what it can say it says whole. Of Llama 3's scaling a file has factors alone, which
// are read where they are those of Llama 3.1. It knows no groups of experts that are chosen by their best.
TEST_P(Families, ComeBackFromGguf) {
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  std::vector<double> expected = reference.values("/logits");
  if (config.rope_scaling.kind == nn::RopeScaling::Kind::Llama3) {
    config.rope_base = 500000;
    config.rope_scaling = {.kind = nn::RopeScaling::Kind::Llama3, .factor = 8, .original_positions = 8192};
    expected = logits_of(model, config, reference.samples(), DType::F64);
  }
  if (config.is_latent() && config.moe.scores == nn::RouterScores::Softmax) {  // as V2-Lite: without groups, one mscale
    config.moe.num_groups = config.moe.groups_per_token = 1;
    config.rope_scaling.mscale = config.rope_scaling.mscale_all;
    expected = logits_of(model, config, reference.samples(), DType::F64);
  }
  const testing::TemporaryFolder folder;
  const auto beyond = data::beyond_all_families(config, data::beyond_gguf);
  const auto write = [&] { data::export_gguf(model, config, folder / "m.gguf", {.dtype = DType::F32}); };
  if (beyond) {
    EXPECT_THAT(write, ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(*beyond)));
    return;
  }
  write();
  const data::GgufModel again(std::make_shared<data::GgufFile>((folder / "m.gguf").string()));
  EXPECT_EQ(again.model_config().rope_scaling.kind, config.rope_scaling.kind);
  EXPECT_EQ(again.model_config().rope_scaling.factor, config.rope_scaling.factor);
  EXPECT_EQ(again.model_config().latent.rank, config.latent.rank);
  if (!config.is_latent()) return;
  export_hugging_face(again, again.model_config(), folder / "back", {.dtype = DType::F32});  // its numbers are float32
  expect_near(logits_of(HuggingFaceModel(folder / "back"), again.model_config(), reference.samples(), DType::F32),
              expected, 1e-5);
  expect_near(logits_of(again, again.model_config(), reference.samples(), DType::F32), expected, 1e-5);
}

// By how many tokens chose each expert, whatever the layout; the bias has no gradient.
TEST(DeepSeek, BiasesOfTheSelectionMoveByTheLoad) {
  const Reference reference("deepseek_v3");
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
      std::vector<double> load(9), bias = testing::values_of(model.parameter(moe + ".router.bias").value);
      const auto chosen = core::host_values<std::int32_t>(*log.find(moe, batch.global_index));
      for (const std::int32_t e : chosen) ++load[static_cast<std::size_t>(e)];
      for (std::size_t e = 0; e < 9; ++e) {
        const double mean = static_cast<double>(chosen.size()) / 9;  // 192 of 9: none has it
        bias[e] += load[e] < mean ? 0.25 : -0.25;
      }
      expected[moe + ".router.bias"] = bias;
    }
  }
  for (const auto& [layout, ranks] :
       {std::pair("dp1", 1), std::pair("dp2", 2), std::pair("tp2", 2), std::pair("tp2ep3", 6)})
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
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
  const Reference reference("deepseek_v3");
  for (const char* name : {"deepseek_v3.gguf", "deepseek_v3_joined.gguf"}) {
    SCOPED_TRACE(name);
    const data::GgufModel model(std::make_shared<data::GgufFile>((testing::golden_folder() / "gguf" / name).string()));
    expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
                1e-5);
  }
}

// Layers that predict further tokens lie behind the others in a file.
TEST(DeepSeek, LayersBehindTheLastAreNotRead) {
  const Reference reference("deepseek_v3");
  const testing::TemporaryFolder folder;
  auto json = nlohmann::json::parse(testing::read_file(reference.folder() / "config.json"));
  json["num_hidden_layers"] = 2;
  testing::write_file(folder.path() / "config.json", json.dump());
  fs::copy_file(reference.folder() / "model.safetensors", folder.path() / "model.safetensors");
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.tensors().count("layers.2.mlp_norm.weight"), 0U);
  ASSERT_EQ(model.notices().size(), 1U);
  EXPECT_THAT(model.notices()[0], ::testing::HasSubstr("tensors of layers from 2 on"));
}

// A student of some layers keeps latents, groups, biases and experts, and is a model of the family.
TEST(DeepSeek, LayersMayBeLeftOut) {
  for (const char* family : {"deepseek_v2", "deepseek_v3"}) {
    const Reference reference(family);
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
  const Reference reference("deepseek_v3");
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
      const auto read = [&](const HuggingFaceModel& from) {
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
       {std::pair(R"({"quantization_config": {"quant_method": "gptq"}})", "quant_method is \"gptq\""),
        std::pair(R"({"quantization_config": {"fmt": "e5m2"}})", "fmt is \"e5m2\""),
        std::pair(R"({"quantization_config": {"weight_block_size": [5]}})", "weight_block_size is [5]"),
        std::pair(R"({"quantization_config": {"weight_block_size": [5, 0]}})", "weight_block_size is [5,0]"),
        std::pair(R"({"quantization_config": {"weight_block_size": [5, 4]}})", "_scale_inv has shape"),
        std::pair(R"({"quantization_config": null})", "float8 (e4m3)")})
    EXPECT_THAT(refusal(patch), ::testing::HasSubstr(what));
}

INSTANTIATE_TEST_SUITE_P(OfPeople, Families,
                         ::testing::Values("llama", "llama_tied", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3",
                                           "qwen3_moe", "olmoe", "olmo2", "gemma3", "deepseek_v2", "deepseek_v3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace limbeck
