// What a whole model promises beyond its numbers, which the golden models hold (tests/launch/run/layout_test.cpp).

#include "core/nn/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/ops/linear.h"
#include "core/random.h"
#include "tests/support/gradient_check.h"

namespace limbeck::nn {
namespace {

using core::DType;
using core::Tensor;

ModelConfig config_with_experts() {
  ModelConfig config{.vocabulary = 31,
                     .width = 12,
                     .num_layers = 2,
                     .num_heads = 4,
                     .num_kv_heads = 2,
                     .head_width = 6,
                     .mlp_width = 10,
                     .max_positions = 40,
                     .moe = {}};
  config.moe = {.num_experts = 3, .experts_per_token = 2, .expert_width = 7, .shared_width = 5, .dense_layers = {0}};
  return config;
}

/// With weights far from zero, so that every part of the model is of effect.
std::unique_ptr<Transformer> make_model(const ModelConfig& config) {
  auto model = std::make_unique<Transformer>(
      config, ModelOptions{.memory = core::Memory::cpu(1), .dtype = DType::F64, .frozen = true});
  for (core::Parameter* p : model->parameters())
    p->value.copy_from(testing::random_tensor(p->value.memory(), p->value.shape(), core::hash_name(p->name), 0.5));
  return model;
}

std::vector<std::int32_t> some_text(std::int64_t length) {
  const core::RandomStream random(1, 0, "text");
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < length; ++i)
    ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(i), 31)));
  return ids;
}

Tensor logits_of(const Transformer& model, const Pass& pass) {
  core::Tape off(core::Tape::Mode::Off);
  return core::linear(off, core::constant(model.forward(off, pass).hidden.value), model.head()).value;
}

TEST(Transformer, WithACacheTheLogitsAreThoseOfTheWholeText) {
  const auto model = make_model(config_with_experts());
  const std::vector<std::int32_t> text = some_text(17);
  const Tensor whole = logits_of(*model, model->pass(one_sequence(model->memory(), text, 0)));
  double scale = 0;
  for (std::int64_t i = 0; i < whole.numel(); ++i) scale = std::max(scale, std::abs(whole.data<double>()[i]));
  KvCache cache = model->make_cache(17);
  std::int64_t done = 0;
  for (const std::int64_t count : {5, 1, 1, 7, 1, 2}) {
    const Batch batch =
        one_sequence(model->memory(),
                     std::span(text).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)), done);
    const Tensor part = logits_of(*model, model->pass(batch, cache));
    for (std::int64_t i = 0; i < part.numel(); ++i)
      ASSERT_NEAR(part.data<double>()[i], whole.data<double>()[done * 31 + i], 1e-12 * scale) << "token " << done;
    done += count;
    ASSERT_EQ(cache.length(), done);
  }
  ASSERT_EQ(done, 17);
}

TEST(Transformer, AWeightScaleIsThatOfTheExpertsOutputs) {
  ModelConfig config = config_with_experts();
  config.moe.weight_scale = 2;
  const auto scaled = make_model(config);
  const auto plain = make_model(config_with_experts());
  const Batch batch = one_sequence(scaled->memory(), some_text(9), 0);
  const Tensor expected = logits_of(*scaled, scaled->pass(batch));
  EXPECT_GT(testing::relative_difference(logits_of(*plain, plain->pass(batch)), expected), 1e-2);
  Tensor& down = plain->parameter("layers.1.moe.experts.down").value;
  for (std::int64_t i = 0; i < down.numel(); ++i) down.mutable_data<double>()[i] *= 2;
  EXPECT_LE(testing::relative_difference(logits_of(*plain, plain->pass(batch)), expected), 1e-13);
}

}  // namespace
}  // namespace limbeck::nn
