// What a whole model promises beyond its numbers, which the golden models hold (tests/launch/run/layout_test.cpp).

#include "core/nn/transformer.h"

#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <vector>

#include "core/ops/linear.h"
#include "core/random.h"
#include "tests/support/gradient_check.h"

namespace limbeck::nn {
namespace {

using core::DType;
using core::Tensor;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

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

ModelConfig config_with_latents(std::int64_t query_rank) {
  ModelConfig config = config_with_experts();
  config.num_kv_heads = config.num_heads;
  config.head_width = 7;
  config.latent = {.rank = 5, .query_rank = query_rank, .rope_width = 4, .value_width = 3};
  config.moe.selection_bias = true;
  config.moe.scores = RouterScores::Sigmoid;
  return config;
}

/// Attention between layers of states, of one group or two, with and without biases of filters.
ModelConfig config_with_states(std::int64_t num_groups) {
  ModelConfig config = config_with_experts();
  config.num_layers = 3;
  config.mamba = {.num_heads = 4, .head_width = 3, .state_width = 5, .num_groups = num_groups, .conv_width = 4};
  config.mamba.conv_bias = num_groups == 1;
  config.mamba.attention_layers = {1};
  config.residual_scale = 0.7;
  config.logits_scale = 0.5;
  config.positions = Positions::None;
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

void expect_logits_of_the_whole_text(const ModelConfig& config) {
  const auto model = make_model(config);
  const std::vector<std::int32_t> text = some_text(17);
  const Tensor whole = logits_of(*model, model->pass(one_sequence(model->memory(), text, 0)));
  double scale = 0;
  for (std::int64_t i = 0; i < whole.numel(); ++i) scale = std::max(scale, std::abs(whole.data<double>()[i]));
  KvCache cache = model->make_cache(1);
  const std::array<std::int64_t, 1> one_slot = {0};
  std::int64_t done = 0;
  for (const std::int64_t count : {5, 1, 1, 7, 1, 2}) {
    const Batch batch =
        one_sequence(model->memory(),
                     std::span(text).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)), done);
    const Tensor part = logits_of(*model, model->pass(batch, cache, one_slot));
    for (std::int64_t i = 0; i < part.numel(); ++i)
      ASSERT_NEAR(part.data<double>()[i], whole.data<double>()[done * 31 + i], 1e-12 * scale) << "token " << done;
    done += count;
    ASSERT_EQ(cache.length(0), done);
  }
  ASSERT_EQ(done, 17);
}

TEST(Transformer, WithACacheTheLogitsAreThoseOfTheWholeText) { expect_logits_of_the_whole_text(config_with_experts()); }

// What widens keys and values is absorbed then.
TEST(Transformer, WithACacheOfLatentsTheLogitsAreThoseOfTheWholeText) {
  for (const std::int64_t query_rank : {0, 7}) expect_logits_of_the_whole_text(config_with_latents(query_rank));
}

TEST(Transformer, WithACacheOfStatesTheLogitsAreThoseOfTheWholeText) {
  for (const std::int64_t num_groups : {1, 2}) expect_logits_of_the_whole_text(config_with_states(num_groups));
}

TEST(Transformer, StatesGoBackToWhereTheyWereKept) {
  const auto model = make_model(config_with_states(1));
  const std::vector<std::int32_t> text = some_text(9);
  KvCache cache = model->make_cache(2);
  const auto run = [&](std::int64_t done, std::int64_t count) {
    const TextPart part{std::span(text).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)), done};
    const std::array<std::int64_t, 1> slots = {1};
    return core::host_values<double>(
        logits_of(*model, model->pass(sequences_of(model->memory(), {&part, 1}), cache, slots)));
  };
  run(0, 4);
  cache.keep(1);
  const std::vector<double> first = run(4, 3);
  EXPECT_THROW(cache.truncate(1, 5), core::Error) << "states know of all tokens";
  cache.go_back(1);
  EXPECT_EQ(cache.length(1), 4);
  EXPECT_EQ(run(4, 3), first);
  cache.clear(1);
  run(0, 4);
  EXPECT_EQ(run(4, 3), first) << "a slot that was cleared begins with nothing";
}

TEST(Transformer, ACachesPagesAreGivenBackAndUsedAgain) {
  const auto model = make_model(config_with_experts());
  const std::vector<std::int32_t> text = some_text(200);
  KvCache cache = model->make_cache(3);
  EXPECT_EQ(cache.num_pages(), 0);
  // Runs tokens into a slot, of which it holds `done`, and holds the last one's logits against those without a cache.
  const auto run = [&](std::int64_t slot, std::int64_t done, std::int64_t count) {
    const std::span<const std::int32_t> all(text);
    const TextPart part{all.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)), done};
    const std::array<std::int64_t, 1> slots = {slot};
    const Tensor logits = logits_of(*model, model->pass(sequences_of(model->memory(), {&part, 1}), cache, slots));
    const auto seen = all.first(static_cast<std::size_t>(done + count));
    const Tensor whole = logits_of(*model, model->pass(one_sequence(model->memory(), seen, 0)));
    for (std::int64_t i = 0; i < 31; ++i)
      ASSERT_NEAR(logits.data<double>()[(count - 1) * 31 + i], whole.data<double>()[(done + count - 1) * 31 + i],
                  1e-12);
  };
  run(0, 0, 64);
  EXPECT_EQ(cache.pages(0).size(), 1U) << "a page is full";
  run(1, 0, 65);
  run(0, 64, 70);
  EXPECT_EQ(cache.pages(0).size(), 3U);
  EXPECT_EQ(cache.pages(1).size(), 2U);
  const std::int64_t pages = cache.num_pages();
  EXPECT_EQ(cache.num_free_pages(), pages - 5);
  cache.clear(0);
  EXPECT_EQ(cache.length(0), 0);
  EXPECT_EQ(cache.num_free_pages(), pages - 2);
  run(2, 0, 130);
  EXPECT_EQ(cache.num_pages(), pages) << "it has those of the text before";
  EXPECT_EQ(cache.num_free_pages(), pages - 5);
  run(1, 65, 1);
  cache.truncate(2, 64);
  EXPECT_EQ(cache.length(2), 64);
  EXPECT_EQ(cache.pages(2).size(), 1U) << "the last that stays is full";
  EXPECT_EQ(cache.num_free_pages(), pages - 3);
  run(2, 64, 70);
  cache.truncate(2, 70);
  EXPECT_EQ(cache.pages(2).size(), 2U);
  run(2, 70, 3);
  EXPECT_THROW(cache.truncate(2, 74), core::Error);
}

void expect_texts_apart(const ModelConfig& config) {
  const auto model = make_model(config);
  const std::vector<std::int32_t> text = some_text(24);
  KvCache cache = model->make_cache(4);
  // Runs part of the text into the slots, and holds the logits against those of each text alone.
  struct Part {
    std::int64_t slot, begin, done, count;  // tokens [done, done + count) of the text that starts at `begin`
  };
  const auto expect_logits = [&](const std::vector<Part>& parts) {
    std::vector<TextPart> tokens;
    std::vector<std::int64_t> slots;
    for (const Part& p : parts) {
      tokens.push_back(
          {std::span(text).subspan(static_cast<std::size_t>(p.begin + p.done), static_cast<std::size_t>(p.count)),
           p.done});
      slots.push_back(p.slot);
    }
    const Batch batch = sequences_of(model->memory(), tokens);
    const Tensor logits = logits_of(*model, model->pass(batch, cache, slots));
    std::int64_t row = 0;
    for (const Part& p : parts) {
      const auto alone =
          std::span(text).subspan(static_cast<std::size_t>(p.begin), static_cast<std::size_t>(p.done + p.count));
      const Tensor whole = logits_of(*model, model->pass(one_sequence(model->memory(), alone, 0)));
      for (std::int64_t i = 0; i < p.count * 31; ++i, ++row)
        ASSERT_NEAR(logits.data<double>()[row], whole.data<double>()[p.done * 31 + i], 1e-12) << p.slot << " " << i;
      EXPECT_EQ(cache.length(p.slot), p.done + p.count);
    }
  };
  expect_logits({{0, 0, 0, 5}, {1, 7, 0, 1}, {3, 3, 0, 12}});
  expect_logits({{0, 0, 5, 1}, {1, 7, 1, 3}});
  cache.clear(3);  // what lies there is another's
  expect_logits({{1, 7, 4, 1}, {3, 11, 0, 4}});
  expect_logits({{0, 0, 6, 6}, {1, 7, 5, 1}, {2, 2, 0, 2}, {3, 11, 4, 1}});
  const auto refused = [&](std::int64_t slot, std::vector<std::int64_t> slots) {
    const TextPart part{std::span(text).first(1), cache.length(slot)};
    model->pass(sequences_of(model->memory(), {&part, 1}), cache, slots);
  };
  EXPECT_THAT([&] { refused(1, {0, 1}); }, ThrowsMessage<core::Error>(HasSubstr("1 sequences, 2 slots")));
  EXPECT_THAT([&] { refused(1, {4}); }, ThrowsMessage<core::Error>(HasSubstr("the cache has 4 slots")));
}

ModelConfig config_as_gpt2() {
  ModelConfig config = config_with_experts();
  config.moe = {};
  config.attention_bias = config.attention_output_bias = config.mlp_bias = config.head_bias = true;
  config.mlp_gate = false;
  config.activation = Activation::GeluTanh;
  config.norm_kind = NormKind::Layer;
  config.positions = Positions::Learned;
  return config;
}

TEST(Transformer, HasAsManyParametersAsAreCounted) {
  ModelConfig states_alone = config_with_states(2);
  states_alone.moe = {};
  states_alone.mamba.attention_layers.clear();
  states_alone.feed_forward = false;
  for (ModelConfig config : {config_with_experts(), config_as_gpt2(), config_with_states(1), states_alone})
    for (const bool tied : {false, true}) {
      config.tied_head = tied;
      std::int64_t count = 0;
      const auto model = make_model(config);
      for (const core::Parameter* p : model->parameters()) count += p->value.numel();
      EXPECT_EQ(count, count_parameters(config).total);
    }
}

// As in the paper's code: A in 1 to 16, steps in 0.001 to 0.1, D and norms 1, filters within 1 / sqrt(K).
TEST(Transformer, StatesBeginAsThePaperHasThem) {
  ModelConfig config = config_with_states(1);
  config.mamba.num_heads = 400;
  Transformer model(config, {.memory = core::Memory::cpu(1), .dtype = DType::F64});
  model.init_random(1);
  const auto of = [&](const char* name) {
    return core::host_values<double>(model.parameter("layers.2.mamba." + std::string(name)).value);
  };
  double mean_a = 0, mean_log_step = 0;
  for (const double a_log : of("A_log")) {
    EXPECT_TRUE(a_log >= 0 && a_log <= std::log(16.0)) << a_log;
    mean_a += std::exp(a_log) / 400;
  }
  for (const double bias : of("dt_bias")) {
    const double step = std::log1p(std::exp(bias));
    EXPECT_TRUE(step >= 0.999e-3 && step <= 1.001e-1) << step;
    mean_log_step += std::log10(step) / 400;
  }
  EXPECT_NEAR(mean_a, 8.5, 4 * 15 / std::sqrt(12.0 * 400));  // four deviations
  EXPECT_NEAR(mean_log_step, -2, 4 * 2 / std::sqrt(12.0 * 400));
  EXPECT_EQ(of("D"), std::vector<double>(400, 1.0));
  EXPECT_EQ(of("norm.weight"), std::vector<double>(1200, 1.0));
  double largest = 0;
  for (const double x : of("conv_x.weight")) largest = std::max(largest, std::abs(x));
  EXPECT_TRUE(largest <= 0.5 && largest > 0.49) << largest;
  EXPECT_EQ(of("conv_B.bias"), std::vector<double>(5, 0.0));
  for (const char* name : {"A_log", "dt_bias", "D", "norm.weight", "conv_x.weight"}) {
    const core::Parameter& p = model.parameter("layers.2.mamba." + std::string(name));
    EXPECT_TRUE(!p.decays && !p.is_matrix()) << name;
  }
  EXPECT_NE(of("A_log"), core::host_values<double>(model.parameter("layers.0.mamba.A_log").value));
}

TEST(Transformer, BiasesBeginAtZeroAndNormsAtOne) {
  Transformer model(config_as_gpt2(), {.memory = core::Memory::cpu(1)});
  model.init_random(1);
  for (const core::Parameter* p : model.parameters())
    if (p->global_shape.rank() == 1) {
      const std::vector<float> all(static_cast<std::size_t>(p->value.numel()), p->name.ends_with(".bias") ? 0.F : 1.F);
      EXPECT_EQ(core::host_values<float>(p->value), all) << p->name;
      EXPECT_FALSE(p->decays) << p->name;
    }
}

TEST(Transformer, APositionBeyondTheTableIsRefused) {
  const auto model = make_model(config_as_gpt2());
  const std::vector<std::int32_t> text = some_text(41);
  model->pass(one_sequence(model->memory(), std::span(text).first(40), 0));
  EXPECT_THAT([&] { model->pass(one_sequence(model->memory(), text, 0)); },
              ThrowsMessage<core::Error>(HasSubstr("position 40 is beyond the model's 40 learned positions")));
}

// Positions are told by the table alone: a token at another place differs as much as its row does, and by nothing else.
TEST(Transformer, LearnedPositionsAreRowsOfTheTable) {
  const auto model = make_model(config_as_gpt2());
  const std::vector<std::int32_t> text = some_text(6);
  const auto logits_from = [&](std::int64_t first) {
    return logits_of(*model, model->pass(one_sequence(model->memory(), text, first)));
  };
  const Tensor begin = logits_from(0);
  EXPECT_GT(testing::relative_difference(logits_from(3), begin), 1e-2);
  Tensor& table = model->parameter("position_embed.weight").value;
  const Tensor copy = table.rows(0, 6).clone();
  table.rows(3, 6).copy_from(copy);
  EXPECT_EQ(testing::relative_difference(logits_from(3), begin), 0);
}

TEST(Transformer, TextsInOneCacheDoNotSeeEachOther) { expect_texts_apart(config_with_experts()); }
TEST(Transformer, TextsInOneCacheOfLatentsDoNotSeeEachOther) { expect_texts_apart(config_with_latents(7)); }
TEST(Transformer, TextsInOneCacheOfStatesDoNotSeeEachOther) { expect_texts_apart(config_with_states(2)); }

// 5 + 4 numbers a token, whatever the heads.
TEST(Transformer, ACacheOfLatentsHasNothingElse) {
  const auto model = make_model(config_with_latents(7));
  const nn::LatentConfig& l = model->config().latent;
  KvCache cache = model->make_cache(1);
  cache.make_room(0, 1);
  const std::array<CacheRun, 1> one = {CacheRun{.slot = 0, .first = 0, .count = 1}};
  const auto row = [&](std::int64_t width) { return Tensor::zeros(model->memory(), DType::F64, {1, width}); };
  const auto [keys, values] = cache.append(0, one, row(l.rank + l.rope_width), row(0));
  EXPECT_EQ(keys.shape(), (core::Shape{KvCache::page_tokens, 9}));
  EXPECT_EQ(values.numel(), 0);
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
