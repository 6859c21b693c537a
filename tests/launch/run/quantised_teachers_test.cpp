// Teachers whose weights other programs have quantised.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "kernels/blocks.h"
#include "launch/run/rank.h"
#include "tests/support/family_reference.h"
#include "tests/support/golden_model.h"
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

data::TokenBatch text_of(const FamilyReference& reference) {
  const std::vector<double> tokens = reference.values("/tokens");
  return document_of({tokens.begin(), tokens.end()});
}

/// Weights in other programs' formats (tests/golden/make_quantised.py).
class QuantisedTeachers : public ::testing::TestWithParam<const char*> {};

TEST_P(QuantisedTeachers, LogitsAreThoseOfTheDequantisedModel) {
  const FamilyReference reference("../quantised/" + std::string(GetParam()));
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> logits = logits_of(model, model.model_config(), text_of(reference), DType::F32);
  expect_near(logits, reference.values("/logits"), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(By, QuantisedTeachers,
                         ::testing::Values("nf4", "nf4_double", "int8", "gptq", "gptq_order", "awq"),
                         [](const auto& test) { return std::string(test.param); });

/// A model whose experts are in MXFP4, as a directory and as GGUF (tests/golden/make_gpt_oss.py).
class GptOssInMxfp4 : public ::testing::TestWithParam<const char*> {
 protected:
  const FamilyReference reference{"../gpt_oss_mxfp4/" + std::string(GetParam())};
  const HuggingFaceModel folder{reference.folder()};
  const data::GgufModel gguf{std::make_shared<data::GgufFile>((reference.folder() / "model.gguf").string())};
};

TEST_P(GptOssInMxfp4, LogitsAreThoseOfTransformers) {
  const std::vector<double> expected = reference.values("/logits");
  nn::ModelConfig config = folder.model_config();
  EXPECT_FALSE(config.rope_scaling.truncates);
  for (const bool as_kept : {false, true}) {
    expect_near(logits_of(folder, config, text_of(reference), DType::F32, as_kept), expected, 1e-5);
    expect_near(logits_of(gguf, gguf.model_config(), text_of(reference), DType::F32, as_kept), expected, 1e-5);
  }
  expect_near(logits_of(folder, config, text_of(reference), DType::F64), expected, 2e-7);
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
  for (const core::StateReader* source : std::initializer_list<const core::StateReader*>{&folder, &gguf}) {
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
    for (const core::StateReader* source : std::initializer_list<const core::StateReader*>{&written, &directory}) {
      const auto values = [&, &name = name, &info = info](const core::StateReader& from) {
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
