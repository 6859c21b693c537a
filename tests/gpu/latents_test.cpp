// Attention of latents on a GPU with a cache: of latents, as on the CPU, whose tokens and logits they give; and layers
// of states.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "core/nn/generation.h"
#include "core/ops/linear.h"
#include "core/random.h"
#include "data/models/hugging_face.h"
#include "launch/run/rank.h"
#include "tests/gpu/gpus.h"
#include "tests/support/family_reference.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;

const std::vector<std::vector<std::int32_t>> prompts = {{5, 9, 31, 7}, {3}, {11, 2, 17, 8, 25, 6, 30}};

std::vector<std::vector<std::int32_t>> continuations(const nn::Transformer& model, std::int64_t at_once) {
  std::vector<std::vector<std::int32_t>> all;
  for (const nn::Continuation& text : nn::generate_texts(model, prompts, {.max_tokens = 12, .at_once = at_once}).texts)
    all.push_back(text.tokens);
  return all;
}

/// What a cache has of a token.
std::array<std::int64_t, 2> cached_widths(const nn::Transformer& model, std::int64_t keys, std::int64_t values) {
  nn::KvCache cache = model.make_cache(1);
  cache.make_room(0, 1);
  const std::array<nn::CacheRun, 1> one = {nn::CacheRun{.slot = 0, .first = 0, .count = 1}};
  const auto row = [&](std::int64_t width) { return Tensor::zeros(model.memory(), DType::F32, {1, width}); };
  const auto [k, v] = cache.append(0, one, row(keys), row(values));
  return {k.shape()[1], v.shape()[1]};
}

/// By transformers' weights (tests/golden/make_families.py). Gives the model on the GPU.
std::unique_ptr<nn::Transformer> expect_the_same_text(const char* family) {
  SCOPED_TRACE(family);
  const data::HuggingFaceModel source(testing::family_folder(family));
  const auto model_on = [&](const core::MemoryPtr& memory) {
    auto model = std::make_unique<nn::Transformer>(
        source.model_config(), nn::ModelOptions{.memory = memory, .dtype = DType::F32, .frozen = true});
    model->load(source);
    return model;
  };
  auto gpu = model_on(testing::gpu_memory(0)), cpu = model_on(core::Memory::cpu(1));
  for (const std::int64_t at_once : {1, 3}) EXPECT_EQ(continuations(*gpu, at_once), continuations(*cpu, at_once));
  return gpu;
}

// Of 8 + 6 channels, three heads and yarn.
TEST(GpuLatents, ModelsOfFamiliesGenerateTheSameText) {
  for (const char* family : {"deepseek_v2", "deepseek_v3"})
    EXPECT_EQ(cached_widths(*expect_the_same_text(family), 14, 0), (std::array<std::int64_t, 2>{14, 0}));
}

// Alone, and beside keys and values.
TEST(GpuStates, ModelsOfFamiliesGenerateTheSameText) {
  for (const char* family : {"mamba2", "granite_hybrid"}) expect_the_same_text(family);
}

// Three heads on two GPUs.
TEST(GpuLatents, ATensorGroupGeneratesTheSameText) {
  const data::HuggingFaceModel source(testing::family_folder("deepseek_v3"));
  nn::Transformer alone(source.model_config(), {.memory = core::Memory::cpu(1), .dtype = DType::F32, .frozen = true});
  alone.load(source);
  const std::vector<std::vector<std::int32_t>> expected = continuations(alone, 2);
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "tp2", 1, /*sequence_parallel=*/false, testing::gpu_memory(world.rank));
    nn::ModelOptions options = rank.sharded(DType::F32);
    options.frozen = true;
    nn::Transformer model(source.model_config(), options);
    model.load(source);
    EXPECT_EQ(continuations(model, 2), expected);
  });
}

/// Heads as wide as DeepSeek's, of a small model.
nn::ModelConfig config_as_wide() {
  nn::ModelConfig config{.vocabulary = 37,
                         .width = 48,
                         .num_layers = 2,
                         .num_heads = 5,
                         .num_kv_heads = 5,
                         .head_width = 72,
                         .mlp_width = 40,
                         .max_positions = 200,
                         .moe = {}};
  config.latent = {.rank = 512, .query_rank = 0, .rope_width = 64, .value_width = 16};
  return config;
}

/// The logits of 75 tokens, which come to the cache in runs of a few; behind them a text of its own.
std::vector<double> logits_of_runs(const nn::Transformer& model) {
  nn::KvCache cache = model.make_cache(2);
  const core::RandomStream random(1, 0, "text");
  std::vector<std::int32_t> text;
  for (std::uint64_t i = 0; i < 75; ++i) text.push_back(static_cast<std::int32_t>(random.below(i, 37)));
  const std::array<std::int64_t, 2> slots = {0, 1};
  std::vector<double> all;
  std::int64_t done = 0;
  for (const std::int64_t count : {60, 3, 1, 5, 1, 1, 4}) {
    const auto tokens = std::span(text).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
    const std::array<nn::TextPart, 2> parts = {nn::TextPart{tokens, done}, {tokens.first(1), cache.length(1)}};
    const nn::Batch batch = nn::sequences_of(model.memory(), parts);
    core::Tape off(core::Tape::Mode::Off);
    const core::Var hidden = model.forward(off, model.pass(batch, cache, slots)).hidden;
    const Tensor logits = core::linear(off, core::constant(hidden.value), model.head()).value.to(DType::F32);
    for (const float x : core::host_values<float>(logits)) all.push_back(x);
    done += count;
  }
  return all;
}

TEST(GpuLatents, AsWideAsThoseOfDeepSeekGiveTheLogitsOfTheCpu) {
  for (const auto compute : {DType::F32, DType::BF16}) {
    SCOPED_TRACE(core::name_of(compute));
    const auto model_on = [&](const core::MemoryPtr& memory) {
      auto model = std::make_unique<nn::Transformer>(
          config_as_wide(),
          nn::ModelOptions{.memory = memory, .dtype = DType::F32, .compute = compute, .frozen = true});
      model->init_random(3);
      return model;
    };
    const auto gpu = model_on(testing::gpu_memory(0)), cpu = model_on(core::Memory::cpu(1));
    const std::vector<double> found = logits_of_runs(*gpu), right = logits_of_runs(*cpu);
    double largest = 0;
    for (const double x : right) largest = std::max(largest, std::abs(x));
    ASSERT_EQ(found.size(), right.size());
    for (std::size_t i = 0; i < right.size(); ++i)
      ASSERT_NEAR(found[i], right[i], (compute == DType::F32 ? 1e-5 : 0.03) * largest) << "logit " << i;
    if (compute == DType::F32) {
      EXPECT_EQ(cached_widths(*gpu, 576, 0), (std::array<std::int64_t, 2>{576, 0}));
      EXPECT_EQ(continuations(*gpu, 2), continuations(*cpu, 2));
    }
  }
}

}  // namespace
}  // namespace limbeck
