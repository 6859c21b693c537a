// Speculative generation with another model's drafts: likeliest tokens are those of plain generation; samples are
// distributed as the model says.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/nn/generation.h"
#include "core/ops/head_loss.h"
#include "core/random.h"
#include "tests/core/drawn_tokens.h"
#include "tests/support/gradient_check.h"

namespace limbeck::nn {
namespace {

using testing::by_token;
using testing::chance;
using testing::ChiSquare;
using ::testing::HasSubstr;
using testing::overlap;
using ::testing::ThrowsMessage;
using Texts = std::vector<std::vector<std::int32_t>>;

constexpr std::int64_t vocabulary = 16;

ModelConfig config_of(std::int64_t layers, std::int64_t width, std::int64_t tokens = vocabulary,
                      std::int64_t positions = 120) {
  return {.vocabulary = tokens,
          .width = width,
          .num_layers = layers,
          .num_heads = 2,
          .num_kv_heads = 1,
          .head_width = 4,
          .mlp_width = 12,
          .max_positions = positions,
          .moe = {}};
}

/// In float64, where a row's products do not depend on the number of rows. `scale`: how far from even its
/// distributions are.
std::unique_ptr<Transformer> model_of(const ModelConfig& config, std::uint64_t seed, double scale) {
  auto model = std::make_unique<Transformer>(
      config, ModelOptions{.memory = core::Memory::cpu(1), .dtype = core::DType::F64, .frozen = true});
  model->init_random(seed);
  for (core::Parameter* p : model->parameters())
    for (std::int64_t i = 0; p->is_matrix() && i < p->value.numel(); ++i) p->value.mutable_data<double>()[i] *= scale;
  return model;
}

std::vector<double> logits_behind(const Transformer& model, const std::vector<std::int32_t>& text) {
  core::Tape off(core::Tape::Mode::Off);
  const core::Tensor hidden = model.forward(off, model.pass(one_sequence(model.memory(), text, 0))).hidden.value;
  return core::host_values<double>(core::logits_of(hidden.rows(std::ssize(text) - 1, 1), model.head().value));
}

const Texts prompts = {{3, 1, 4}, {1}, {5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3}, {2, 7}, {11, 15}};

Texts texts_of(const Generated& generated) {
  Texts texts;
  for (const Continuation& text : generated.texts) texts.push_back(text.tokens);
  return texts;
}

struct Counts {
  std::int64_t drafted = 0, tried = 0, accepted = 0, passes = 0;
};
Counts counts_of(const Generated& generated) {
  Counts counts;
  for (const Continuation& text : generated.texts) {
    counts.drafted += text.num_drafted;
    counts.tried += text.num_tried;
    counts.accepted += text.num_accepted;
    counts.passes += text.num_passes;
  }
  return counts;
}

const std::vector<GenerateOptions> greedy_ways = {
    {.max_tokens = 60},
    {.max_tokens = 61, .at_once = 3, .draft_tokens = 1},
    {.max_tokens = 44, .valid_vocabulary = 14, .at_once = 5, .draft_tokens = 7},
    {.max_tokens = 90, .stop = {4, 11}, .at_once = 2, .most_of_prompts = 5},
    {.max_tokens = 1, .at_once = 5},
    {.max_tokens = 2, .at_once = 5},
    {.max_tokens = 500, .fewer_where_full = true, .at_once = 4}};

void expect_plain_text(const Transformer& model, const Transformer& draft) {
  for (GenerateOptions how : greedy_ways) {
    SCOPED_TRACE(fmt::format("{} tokens", how.max_tokens));
    const Generated plain = generate_texts(model, prompts, how);
    Texts said(prompts.size());
    how.draft = &draft;
    how.on_token = [&](std::size_t text, std::int32_t token) { said[text].push_back(token); };
    std::int64_t ended = 0;
    how.on_end = [&](std::size_t, const Continuation& text) { ended += text.num_accepted; };
    const Generated drafted = generate_texts(model, prompts, how);
    EXPECT_EQ(texts_of(drafted), texts_of(plain));
    EXPECT_EQ(said, texts_of(plain));
    for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(drafted.texts[i].is_stopped, plain.texts[i].is_stopped);
    EXPECT_EQ(drafted.prefill.tokens, plain.prefill.tokens);
    EXPECT_EQ(drafted.decode.tokens, plain.decode.tokens);
    EXPECT_EQ(ended, counts_of(drafted).accepted);
    // A token of each pass, and the drafts that stayed.
    EXPECT_TRUE(!how.stop.empty() || drafted.decode.tokens == counts_of(drafted).passes + counts_of(drafted).accepted);
  }
}

TEST(DraftModel, LikeliestTokensAreThoseOfPlainGeneration) {
  const auto model = model_of(config_of(2, 8), 1, 30);
  expect_plain_text(*model, *model_of(config_of(1, 8), 2, 30));
  expect_plain_text(*model, *model_of(config_of(1, 8, 20), 3, 30));             // padding rows
  expect_plain_text(*model, *model_of(config_of(1, 8, 13), 4, 30));             // a row fewer than texts have tokens
  expect_plain_text(*model, *model_of(config_of(1, 8, vocabulary, 9), 5, 30));  // fewer positions than prompts
  expect_plain_text(*model, *model_of(config_of(1, 8, vocabulary, 31), 6, 30));
}

/// A layer of states, before one of attention where there is a second.
ModelConfig with_states(ModelConfig config) {
  config.mamba = {.num_heads = 2, .head_width = 8, .state_width = 4};
  for (std::int64_t layer = 1; layer < config.num_layers; ++layer) config.mamba.attention_layers.push_back(layer);
  return config;
}

// States cannot be cut back to fewer tokens: they are put back, of the model that checks and of the one that drafts.
TEST(DraftModel, LikeliestTokensAreThoseOfPlainGenerationWithStates) {
  const auto hybrid = model_of(with_states(config_of(2, 8)), 1, 30), plain = model_of(config_of(2, 8), 1, 30);
  expect_plain_text(*hybrid, *model_of(with_states(config_of(1, 8)), 3, 30));
  expect_plain_text(*plain, *model_of(with_states(config_of(2, 8, vocabulary, 31)), 4, 30));
}

TEST(DraftModel, WhatDraftsIsNeverMoreThanAskedFor) {
  const auto model = model_of(config_of(2, 8), 1, 30);
  const auto draft = model_of(config_of(1, 8, vocabulary, 40), 2, 30);
  const Generated one = generate_texts(*model, {&prompts[0], 1}, {.max_tokens = 60, .draft = draft.get()});
  // Three tokens and one: drafts run up to the last of 40 positions, the last of them is none that is run.
  EXPECT_GT(counts_of(one).drafted, 60);
  EXPECT_LE(counts_of(one).drafted, 4 * counts_of(one).passes);
  const auto short_sighted = model_of(config_of(1, 8, vocabulary, 4), 2, 30);
  const Generated few = generate_texts(*model, {&prompts[0], 1}, {.max_tokens = 60, .draft = short_sighted.get()});
  EXPECT_EQ(counts_of(few).drafted, 1) << "behind four tokens, and never behind five";
}

/// How many drafts of a greedy text stay, of drafts that are made of all tokens anew, without a cache.
Counts drafts_of_whole_texts(const Transformer& draft, const std::vector<std::int32_t>& prompt,
                             const std::vector<std::int32_t>& continuation, std::size_t most) {
  Counts result;
  std::vector<std::int32_t> text = prompt;
  text.insert(text.end(), continuation.begin(), continuation.end());
  for (std::size_t known = prompt.size() + 1; known < text.size();) {
    std::vector<std::int32_t> guessed(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(known));
    const std::size_t wanted = std::min(most, text.size() - known - 1);
    while (guessed.size() < known + wanted) {
      const std::vector<double> logits = logits_behind(draft, guessed);
      guessed.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    }
    std::size_t kept = 0;
    while (kept < wanted && guessed[known + kept] == text[known + kept]) ++kept;
    result.drafted += static_cast<std::int64_t>(wanted);
    result.accepted += static_cast<std::int64_t>(kept);
    result.tried += static_cast<std::int64_t>(std::min(kept + 1, wanted));
    result.passes += 1;
    known += kept + 1;
  }
  return result;
}

void expect_drafts_of_whole_texts(const Transformer& model, const Transformer& draft) {
  std::int64_t refused = 0, accepted = 0;
  for (const std::int64_t most : {3, 2048}) {  // prompts in pieces, and whole
    const GenerateOptions how{
        .max_tokens = 50, .at_once = 3, .most_of_prompts = most, .draft = &draft, .draft_tokens = 3};
    const Generated drafted = generate_texts(model, prompts, how);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const Counts expected = drafts_of_whole_texts(draft, prompts[i], drafted.texts[i].tokens, 3);
      EXPECT_EQ(drafted.texts[i].num_drafted, expected.drafted) << i;
      EXPECT_EQ(drafted.texts[i].num_tried, expected.tried) << i;
      EXPECT_EQ(drafted.texts[i].num_accepted, expected.accepted) << i;
      EXPECT_EQ(drafted.texts[i].num_passes, expected.passes) << i;
      refused += expected.drafted - expected.accepted;
      accepted += expected.accepted;
    }
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(accepted, 50);
}

/// The model, with weights that are a little off.
std::unique_ptr<Transformer> model_beside(const Transformer& model, double by) {
  auto other = model_of(model.config(), 1, 30);
  for (core::Parameter* p : other->parameters()) {
    const core::RandomStream random(77, 0, p->name);
    for (std::int64_t i = 0; p->is_matrix() && i < p->value.numel(); ++i)
      p->value.mutable_data<double>()[i] *= 1 + by * random.normal(static_cast<std::uint64_t>(i));
  }
  return other;
}

TEST(DraftModel, DraftsAreThoseOfTheWholeText) {
  const auto model = model_of(config_of(2, 8), 1, 30);
  expect_drafts_of_whole_texts(*model, *model_beside(*model, 0.1));
}

ModelConfig with_long_rope(std::int64_t layers, std::int64_t original) {
  ModelConfig config = config_of(layers, 8);
  config.rope_base = 20;
  config.rope_scaling = {.kind = RopeScaling::Kind::LongRope,
                         .factor = 3,
                         .original_positions = original,
                         .short_factors = {1, 1.2},
                         .long_factors = {1.7, 4}};
  return config;
}

// The model's border, the draft's, and both.
TEST(DraftModel, TextsThatGrowLongStayRight) {
  for (const auto& [border, of_draft] : {std::pair(20, 20), {20, 13}, {13, 22}, {20, 0}, {0, 20}, {12, 19}}) {
    SCOPED_TRACE(fmt::format("long from {}, drafts' from {}", border, of_draft));
    const auto model = model_of(border > 0 ? with_long_rope(2, border) : config_of(2, 8), 1, 30);
    const auto draft = model_of(of_draft > 0 ? with_long_rope(1, of_draft) : config_of(1, 8), 2, 30);
    expect_plain_text(*model, *draft);
  }
}

TEST(DraftModel, DraftsOfLongTextsAreThoseOfTheWholeText) {
  const auto model = model_of(config_of(2, 8), 1, 30);
  const auto draft = model_of(with_long_rope(2, 20), 1, 30);
  nn::GenerateOptions how{.max_tokens = 50, .at_once = 3, .draft = draft.get(), .draft_tokens = 1};
  const Generated drafted = generate_texts(*model, prompts, how);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Counts expected = drafts_of_whole_texts(*draft, prompts[i], drafted.texts[i].tokens, 1);
    EXPECT_EQ(drafted.texts[i].num_drafted, expected.drafted) << i;
    EXPECT_EQ(drafted.texts[i].num_accepted, expected.accepted) << i;
  }
}

TEST(DraftModel, AModelThatDraftsForItselfIsAlwaysRight) {
  const auto model = model_of(config_of(2, 8), 1, 20);
  const auto itself = model_of(config_of(2, 8), 1, 20);
  for (const SamplingOptions& sampling :
       {SamplingOptions{}, {.temperature = 1, .seed = 2}, {.temperature = 0.7, .top_k = 5, .top_p = 0.9, .seed = 6}}) {
    const Generated all =
        generate_texts(*model, prompts, {.max_tokens = 51, .sampling = sampling, .at_once = 2, .draft = itself.get()});
    const Counts counts = counts_of(all);
    EXPECT_EQ(counts.accepted, counts.drafted);
    EXPECT_EQ(counts.tried, counts.drafted);
    EXPECT_EQ(counts.passes, 5 * 10) << "five tokens each behind the first";
    EXPECT_EQ(all.decode.tokens, 5 * 50);
  }
}

TEST(DraftModel, SamplesRepeatWhateverIsBesideThem) {
  const auto model = model_of(config_of(2, 8), 1, 20), draft = model_of(config_of(1, 8), 2, 20);
  GenerateOptions how{
      .max_tokens = 40, .sampling = {.temperature = 0.9, .top_p = 0.95, .seed = 3}, .stop = {12}, .draft = draft.get()};
  const Texts alone = texts_of(generate_texts(*model, prompts, how));
  for (const std::int64_t at_once : {1, 2, 5})
    for (const std::int64_t most : {2, 2048}) {
      how.at_once = at_once;
      how.most_of_prompts = most;
      const Generated all = generate_texts(*model, prompts, how);
      EXPECT_EQ(texts_of(all), alone);
      for (const Continuation& text : all.texts) {
        EXPECT_EQ(text.is_stopped, text.tokens.size() < 40);
        EXPECT_EQ(std::ranges::count(text.tokens, 12), 0);
      }
    }
  how.sampling.seed = 4;
  EXPECT_NE(texts_of(generate_texts(*model, prompts, how)), alone);
}

/// Of all texts of `count` tokens behind a prompt, by their tokens as digits, the model's probabilities.
std::vector<double> probabilities(const Transformer& model, const std::vector<std::int32_t>& prompt, int count,
                                  const SamplingOptions& sampling) {
  std::vector<double> result = {1};
  std::vector<std::vector<std::int32_t>> texts = {prompt};
  for (int i = 0; i < count; ++i) {
    std::vector<double> longer;
    std::vector<std::vector<std::int32_t>> longer_texts;
    for (std::size_t n = 0; n < texts.size(); ++n) {
      std::vector<double> next(vocabulary, 0);
      if (result[n] > 0) next = by_token(distribution_of(logits_behind(model, texts[n]), sampling), vocabulary);
      for (std::int32_t token = 0; token < vocabulary; ++token) {
        longer.push_back(result[n] * next[static_cast<std::size_t>(token)]);
        longer_texts.push_back(texts[n]);
        longer_texts.back().push_back(token);
      }
    }
    result = std::move(longer);
    texts = std::move(longer_texts);
  }
  return result;
}

/// Of cells that are texts of tokens as digits, the sums over all but the last tokens.
std::vector<double> of_last(const std::vector<double>& cells, std::size_t count) {
  std::vector<double> result(count);
  for (std::size_t i = 0; i < cells.size(); ++i) result[i % count] += cells[i];
  return result;
}

// The first token is the prompt's pass's, the second and the third are drafted, the fourth stands behind them.
TEST(DraftModel, SamplesAreDistributedAsTheModels) {
  const auto model = model_of(config_of(2, 8), 1, 12), draft = model_of(config_of(1, 8), 2, 12);
  const Texts some = {{3, 1, 4}, {1}, {2, 7}, {11, 15, 0}};
  constexpr int count = 4, rounds = 2500;
  for (const SamplingOptions& sampling :
       {SamplingOptions{.temperature = 1}, {.temperature = 1.2, .top_k = 6, .top_p = 0.9}}) {
    SCOPED_TRACE(fmt::format("temperature {}", sampling.temperature));
    constexpr std::size_t cells = vocabulary * vocabulary * vocabulary * vocabulary;
    std::vector<std::vector<double>> all(some.size(), std::vector<double>(cells));
    GenerateOptions how{
        .max_tokens = count, .sampling = sampling, .at_once = 4, .draft = draft.get(), .draft_tokens = 3};
    Counts seen;
    for (how.sampling.seed = 1; how.sampling.seed <= rounds; ++how.sampling.seed) {
      const Generated generated = generate_texts(*model, some, how);
      seen.tried += counts_of(generated).tried;
      seen.accepted += counts_of(generated).accepted;
      for (std::size_t n = 0; n < some.size(); ++n) {
        std::size_t cell = 0;
        for (const std::int32_t token : generated.texts[n].tokens)
          cell = cell * vocabulary + static_cast<std::size_t>(token);
        all[n][cell] += 1;
      }
    }
    EXPECT_GT(seen.accepted, rounds);
    EXPECT_GT(seen.tried - seen.accepted, rounds);
    ChiSquare drafted, last;  // pairs
    for (std::size_t n = 0; n < some.size(); ++n) {
      std::vector<double> expected = probabilities(*model, some[n], count, sampling);
      for (double& mean : expected) mean *= rounds;
      std::vector<double> first_three(expected.size() / vocabulary), of_first_three(first_three.size());
      for (std::size_t i = 0; i < expected.size(); ++i) {
        first_three[i / vocabulary] += all[n][i];
        of_first_three[i / vocabulary] += expected[i];
      }
      drafted.add(of_last(first_three, vocabulary * vocabulary), of_last(of_first_three, vocabulary * vocabulary));
      last.add(of_last(all[n], vocabulary * vocabulary), of_last(expected, vocabulary * vocabulary));
    }
    EXPECT_GT(drafted.cells, 100);
    EXPECT_GT(last.cells, 100);
    EXPECT_LT(drafted.deviations(), chance) << drafted.sum << " of " << drafted.cells;
    EXPECT_LT(last.deviations(), chance) << last.sum << " of " << last.cells;
  }
}

// Of three tokens the second is always drafted, and no other.
TEST(DraftModel, DraftsStayAsOftenAsTheModelsOverlap) {
  const auto model = model_of(config_of(2, 8), 1, 12), draft = model_of(config_of(1, 8), 2, 12);
  for (const SamplingOptions& sampling :
       {SamplingOptions{.temperature = 1}, {.temperature = 0.8, .top_k = 6, .top_p = 0.9}}) {
    GenerateOptions how{.max_tokens = 3, .sampling = sampling, .at_once = 5, .draft = draft.get()};
    double expected = 0;
    Counts seen;
    for (how.sampling.seed = 1; how.sampling.seed <= 1500; ++how.sampling.seed) {
      const Generated generated = generate_texts(*model, prompts, how);
      seen.tried += counts_of(generated).tried;
      seen.accepted += counts_of(generated).accepted;
      for (std::size_t n = 0; n < prompts.size(); ++n) {
        std::vector<std::int32_t> text = prompts[n];
        text.push_back(generated.texts[n].tokens.front());
        const auto next = [&](const Transformer& of) {
          return by_token(distribution_of(logits_behind(of, text), sampling), vocabulary);
        };
        const double share = overlap(next(*model), next(*draft));
        EXPECT_NEAR(generated.texts[n].sum_min, share, 1e-12);
        expected += share;
      }
    }
    const auto tried = static_cast<double>(seen.tried);
    ASSERT_EQ(seen.tried, 1500 * 5);
    EXPECT_NEAR(static_cast<double>(seen.accepted) / tried, expected / tried, 0.02);
  }
}

// Behind a refused draft none is tried, and none counts.
TEST(DraftModel, TheOverlapIsOfTriedDraftsAlone) {
  const auto model = model_of(config_of(2, 8), 1, 20), draft = model_of(config_of(1, 8), 2, 20);
  GenerateOptions how{.max_tokens = 100, .sampling = {.temperature = 1}, .at_once = 5, .draft = draft.get()};
  Counts seen;
  double sum_min = 0;
  for (how.sampling.seed = 1; how.sampling.seed <= 40; ++how.sampling.seed) {
    const Generated generated = generate_texts(*model, prompts, how);
    seen.tried += counts_of(generated).tried;
    seen.accepted += counts_of(generated).accepted;
    for (const Continuation& text : generated.texts) sum_min += text.sum_min;
  }
  EXPECT_GT(seen.tried, 10000);
  EXPECT_NEAR(static_cast<double>(seen.accepted), sum_min, 0.015 * static_cast<double>(seen.tried));
  how.sampling.temperature = 0;
  EXPECT_EQ(generate_texts(*model, {&prompts[0], 1}, how).texts[0].sum_min, 0);
}

TEST(DraftModel, NeedsACacheAndNoOtherDrafts) {
  const auto model = model_of(config_of(2, 8), 1, 1);
  const auto generate_by = [&](GenerateOptions how) {
    how.draft = model.get();
    return [how, &model] { generate_texts(*model, prompts, how); };
  };
  EXPECT_THAT(generate_by({.use_cache = false}), ThrowsMessage<core::Error>(HasSubstr("without a cache")));
  EXPECT_THAT(generate_by({.draft_tokens = 0}), ThrowsMessage<core::Error>(HasSubstr("0 a text")));
  EXPECT_THAT(generate_by({.speculative = true}), ThrowsMessage<core::Error>(HasSubstr("0 layers that predict")));
}

}  // namespace
}  // namespace limbeck::nn
