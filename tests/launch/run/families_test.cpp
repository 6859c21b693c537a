// Models of families that people have, as transformers saved them, against what transformers computes in float64
// (tests/golden/make_families.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/nn/generation.h"
#include "core/ops/head_loss.h"
#include "data/files/hdf5_file.h"
#include "data/models/families/family.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
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
  explicit Reference(const fs::path& folder)
      : folder_(folder), file_(data::Hdf5File::open((folder_ / "reference.h5").string())) {}

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
                              const data::TokenBatch& samples, DType dtype, bool as_kept = false) {
  const auto memory = core::Memory::cpu(2);
  nn::Transformer model(config, {.memory = memory, .dtype = dtype, .frozen = true, .as_kept = as_kept});
  model.load(source);
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  return testing::values_of(core::logits_of(hidden, model.head().value));
}

class Families : public ::testing::TestWithParam<const char*> {
 protected:
  const Reference reference{testing::golden_folder() / "families" / GetParam()};
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
  if (config.moe.num_experts > 0) layouts.emplace_back("ep2", 2);
  if (config.moe.num_experts > 0) layouts.emplace_back("etp2", 2);
  if (config.moe.num_experts > 0 && config.head_norm != nn::HeadNorm::AllHeads) layouts.emplace_back("tp2ep2", 4);
  if (config.moe.expert_bias) layouts.emplace_back("ep2etp2", 4);
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
// are read where they are those of Llama 3.1.
TEST_P(Families, ComeBackFromGguf) {
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  std::vector<double> expected = reference.values("/logits");
  if (config.rope_scaling.kind == nn::RopeScaling::Kind::Llama3) {
    config.rope_base = 500000;
    config.rope_scaling = {.kind = nn::RopeScaling::Kind::Llama3, .factor = 8, .original_positions = 8192};
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
  expect_near(logits_of(again, again.model_config(), reference.samples(), DType::F32), expected, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(OfPeople, Families,
                         ::testing::Values("llama", "llama_tied", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3",
                                           "qwen3_moe", "olmoe", "olmo2", "gemma3", "gpt_oss"),
                         [](const auto& test) { return std::string(test.param); });

data::TokenBatch one_text(const Reference& reference) {
  const std::vector<double> tokens = reference.values("/tokens");
  data::TokenBatch batch{1, std::ssize(tokens), {tokens.begin(), tokens.end()}, {}, {}, {}};
  for (std::size_t i = 0; i < tokens.size(); ++i) batch.positions.push_back(static_cast<std::int32_t>(i));
  batch.targets.assign(tokens.size(), -1);
  batch.documents.resize(tokens.size());
  return batch;
}

/// Weights in other programs' formats (tests/golden/make_quantised.py).
class QuantisedTeachers : public ::testing::TestWithParam<const char*> {};

TEST_P(QuantisedTeachers, LogitsAreThoseOfTheDequantisedModel) {
  const Reference reference(testing::golden_folder() / "quantised" / GetParam());
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> logits = logits_of(model, model.model_config(), one_text(reference), DType::F32);
  expect_near(logits, reference.values("/logits"), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(By, QuantisedTeachers,
                         ::testing::Values("nf4", "nf4_double", "int8", "gptq", "gptq_order", "awq"),
                         [](const auto& test) { return std::string(test.param); });

/// A model whose experts are in MXFP4, as a directory and as GGUF (tests/golden/make_gpt_oss.py).
class GptOssInMxfp4 : public ::testing::TestWithParam<const char*> {
 protected:
  const Reference reference{testing::golden_folder() / "gpt_oss_mxfp4" / GetParam()};
  const HuggingFaceModel folder{reference.folder()};
  const data::GgufModel gguf{std::make_shared<data::GgufFile>((reference.folder() / "model.gguf").string())};
};

TEST_P(GptOssInMxfp4, LogitsAreThoseOfTransformers) {
  const std::vector<double> expected = reference.values("/logits");
  nn::ModelConfig config = folder.model_config();
  EXPECT_FALSE(config.rope_scaling.truncates);
  for (const bool as_kept : {false, true}) {
    expect_near(logits_of(folder, config, one_text(reference), DType::F32, as_kept), expected, 1e-5);
    expect_near(logits_of(gguf, gguf.model_config(), one_text(reference), DType::F32, as_kept), expected, 1e-5);
  }
  expect_near(logits_of(folder, config, one_text(reference), DType::F64), expected, 2e-7);
  // GGUF has its numbers in float32.
  EXPECT_NEAR(gguf.model_config().norm_eps, config.norm_eps, 1e-12);
  EXPECT_NEAR(gguf.model_config().rope_scaling.beta_fast, config.rope_scaling.beta_fast, 1e-6);
  EXPECT_NEAR(gguf.model_config().rope_scaling.beta_slow, config.rope_scaling.beta_slow, 1e-6);
  config.norm_eps = gguf.model_config().norm_eps;
  config.rope_scaling.beta_fast = gguf.model_config().rope_scaling.beta_fast;
  config.rope_scaling.beta_slow = gguf.model_config().rope_scaling.beta_slow;
  EXPECT_EQ(gguf.model_config(), config);
}

// Experts stay in the blocks of the file, in both halves of an expert group too; the sum over the parts of each
// expert's width is of blocks as well.
TEST_P(GptOssInMxfp4, ExpertsStayQuantised) {
  const nn::ModelConfig config = folder.model_config();
  for (const core::StateReader* source : {static_cast<const core::StateReader*>(&folder), {&gguf}}) {
    nn::Transformer model(config, {.memory = core::Memory::cpu(1), .frozen = true, .as_kept = true});
    model.load(*source);
    for (const char* matrix : {"gate", "up", "down"})
      EXPECT_EQ(model.parameter(fmt::format("layers.1.moe.experts.{}", matrix)).value.dtype(), DType::MXFP4);
    EXPECT_EQ(model.parameter("layers.1.moe.experts.down_bias").value.dtype(), DType::F32);
  }
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "ep2", 1);
    nn::ModelOptions options = rank.sharded(DType::F32);
    options.frozen = options.as_kept = true;
    nn::Transformer model(config, options);
    model.load(folder);
    const core::Parameter& down = model.parameter("layers.1.moe.experts.down");
    EXPECT_EQ(down.value.dtype(), DType::MXFP4);
    EXPECT_EQ(down.value.shape()[0], 2);
    const std::vector<double> all = reference.values("/down_proj");  // [E,F,C]
    std::vector<float> values(static_cast<std::size_t>(down.value.numel()));
    kernels::expand({kernels::BlockFormat::MXFP4, down.value.host_raw()}, std::ssize(values) / 32, values.data());
    const std::int64_t width = config.width, own = config.moe.expert_width;
    for (std::int64_t e = 0; e < 2; ++e)
      for (std::int64_t c = 0; c < width; ++c)
        for (std::int64_t f = 0; f < own; ++f)
          ASSERT_EQ(values[(e * width + c) * own + f], all[((e + down.offset()[0]) * own + f) * width + c]);
  });
}

// Written as values, for what is read in blocks is written in --dtype.
TEST_P(GptOssInMxfp4, ComesBackFromGgufAndHuggingFace) {
  const testing::TemporaryFolder out;
  data::export_gguf(folder, folder.model_config(), out / "m.gguf", {.dtype = DType::F32});
  const data::GgufModel written(std::make_shared<data::GgufFile>((out / "m.gguf").string()));
  EXPECT_EQ(written.model_config(), gguf.model_config());
  data::export_hugging_face(gguf, folder.model_config(), out / "hf", {.dtype = DType::F32});
  const HuggingFaceModel directory(out / "hf");
  EXPECT_EQ(directory.model_config(), folder.model_config());
  for (const auto& [name, info] : folder.tensors())
    for (const core::StateReader* source : {static_cast<const core::StateReader*>(&written), {&directory}}) {
      const auto values = [&](const core::StateReader& from) {
        core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, info.shape));
        from.read(name, entry);
        return testing::values_of(entry.tensor.to(DType::F64));
      };
      EXPECT_EQ(values(*source), values(folder)) << name;
    }
}

INSTANTIATE_TEST_SUITE_P(Of, GptOssInMxfp4, ::testing::Values("gate", "down"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace limbeck
