// Speculative generation: the text of plain generation, whatever the drafts are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/generation.h"
#include "core/nn/predictor_drafter.h"
#include "core/ops/head_loss.h"
#include "core/random.h"
#include "launch/run/step.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/objectives.h"
#include "tests/support/family_reference.h"
#include "tests/support/kept_state.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using Texts = std::vector<std::vector<std::int32_t>>;

constexpr std::int64_t vocabulary = 13;

nn::ModelConfig dense_config() {
  return {.vocabulary = vocabulary,
          .width = 16,
          .num_layers = 2,
          .num_heads = 2,
          .num_kv_heads = 2,
          .head_width = 8,
          .mlp_width = 24,
          .max_positions = 200,
          .moe = {},
          .num_predict_layers = 2};
}

/// Tokens that mostly follow a rule.
std::vector<std::int32_t> some_text(std::uint64_t seed, std::int64_t count) {
  const core::RandomStream random(seed, 0, "text");
  std::vector<std::int32_t> text = {static_cast<std::int32_t>(random.below(0, vocabulary))};
  for (std::uint64_t i = 1; std::ssize(text) < count; ++i)
    text.push_back(random.uniform(2 * i) < 0.85 ? (5 * text.back() + 3) % vocabulary
                                                : static_cast<std::int32_t>(random.below(2 * i + 1, vocabulary)));
  return text;
}

data::TokenBatch some_samples(std::uint64_t seed) {
  constexpr std::int64_t count = 8, length = 24;
  data::TokenBatch samples{count, length, {}, {}, {}, {}};
  for (std::int64_t n = 0; n < count; ++n) {
    const std::vector<std::int32_t> text = some_text(seed * 100 + static_cast<std::uint64_t>(n), length + 1);
    samples.tokens.insert(samples.tokens.end(), text.begin(), text.end() - 1);
    samples.targets.insert(samples.targets.end(), text.begin() + 1, text.end());
    for (std::int32_t i = 0; i < length; ++i) samples.positions.push_back(i);
    samples.documents.insert(samples.documents.end(), length, 0);
  }
  return samples;
}

/// Weights of a model that has learnt a little.
const testing::KeptState& trained() {
  static const testing::KeptState state = [] {
    std::optional<testing::KeptState> kept;
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1);
      nn::ModelOptions options = rank.sharded(DType::F64);
      options.with_predict = true;
      nn::Transformer model(dense_config(), options);
      model.init_random(1);
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F64);
      optim::AdamW adamw(optim::whole_fragments(model.parameters()), {});
      const optim::LanguageModelling objective;
      for (std::uint64_t step = 1; step <= 25; ++step) {
        launch::forward_backward(rank, {model, nullptr, objective}, some_samples(step), {.predict_weight = 0.3}, sync);
        adamw.step(1e-2, optim::GradientNorm(model.parameters(), rank.world(), 1).factor());
      }
      core::StateDict copies;
      for (const auto& [name, entry] : model.state_dict())
        copies.emplace(name, core::StateEntry::whole(entry.tensor.clone()));
      kept.emplace(std::move(copies));
    });
    return std::move(*kept);
  }();
  return state;
}

const Texts prompts = {some_text(900, 5), {7}, some_text(901, 17), some_text(902, 2), some_text(903, 70)};

Texts texts_of(const nn::Generated& generated) {
  Texts texts;
  for (const nn::Continuation& text : generated.texts) texts.push_back(text.tokens);
  return texts;
}

struct Drafts {
  std::int64_t drafted = 0, accepted = 0;
};
Drafts drafts_of(const nn::Generated& generated) {
  Drafts drafts;
  for (const nn::Continuation& text : generated.texts) {
    drafts.drafted += text.num_drafted;
    drafts.accepted += text.num_accepted;
  }
  return drafts;
}

std::unique_ptr<nn::Transformer> model_of(const core::StateReader& source, const nn::ModelConfig& config,
                                          DType dtype = DType::F64) {
  auto model = std::make_unique<nn::Transformer>(
      config, nn::ModelOptions{.memory = core::Memory::cpu(1), .dtype = dtype, .frozen = true, .with_predict = true});
  model->load(source);
  return model;
}

const std::vector<nn::GenerateOptions> ways = {
    {.max_tokens = 60},
    {.max_tokens = 61, .sampling = {.temperature = 0.9, .seed = 3}, .at_once = 3},
    {.max_tokens = 44, .sampling = {.temperature = 1.3, .top_k = 7, .top_p = 0.9, .seed = 8}, .at_once = 5},
    {.max_tokens = 90,
     .sampling = {.temperature = 0.7, .seed = 5},
     .stop = {4, 11},
     .at_once = 2,
     .most_of_prompts = 6},
    {.max_tokens = 1, .at_once = 5},
    {.max_tokens = 2, .at_once = 5},
    {.max_tokens = 500, .fewer_where_full = true, .at_once = 4}};

void expect_plain_text(const nn::Transformer& model, const std::function<void(const Drafts&)>& see) {
  for (nn::GenerateOptions how : ways) {
    SCOPED_TRACE(fmt::format("{} tokens, temperature {}", how.max_tokens, how.sampling.temperature));
    const nn::Generated plain = nn::generate_texts(model, prompts, how);
    EXPECT_EQ(drafts_of(plain).drafted, 0);
    Texts said(prompts.size());
    how.speculative = true;
    how.on_token = [&](std::size_t text, std::int32_t token) { said[text].push_back(token); };
    const nn::Generated drafted = nn::generate_texts(model, prompts, how);
    EXPECT_EQ(texts_of(drafted), texts_of(plain));
    EXPECT_EQ(said, texts_of(plain));
    for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(drafted.texts[i].is_stopped, plain.texts[i].is_stopped);
    EXPECT_EQ(drafted.prefill.tokens, plain.prefill.tokens);
    EXPECT_EQ(drafted.decode.tokens, plain.decode.tokens);
    see(drafts_of(drafted));
  }
}

TEST(Speculative, GivesThePlainTextInFewerPasses) {
  const auto model = model_of(trained(), dense_config());
  Drafts all;
  expect_plain_text(*model, [&](const Drafts& drafts) {
    all.drafted += drafts.drafted;
    all.accepted += drafts.accepted;
  });
  EXPECT_GT(all.accepted, all.drafted / 4);
  EXPECT_GT(all.drafted - all.accepted, 50);
  // Of the greedy text alone: a token of each pass, and the drafts that stay.
  nn::GenerateOptions how{.max_tokens = 60, .speculative = true};
  for (const auto& prompt : prompts) {
    const nn::Generated one = nn::generate_texts(*model, {&prompt, 1}, how);
    EXPECT_GT(drafts_of(one).accepted, 10);
    EXPECT_GE(drafts_of(one).drafted, 2 * (59 - drafts_of(one).accepted) - 3) << "two of all passes but the last";
  }
}

// The last norm of each depth gives zeros, so that every draft is of logits that are all alike.
TEST(Speculative, DraftsThatAreAlwaysWrongChangeNothing) {
  const auto model = model_of(trained(), dense_config());
  for (const char* name : {"predict.0.norm.weight", "predict.1.norm.weight"}) model->parameter(name).value.fill_zero();
  const nn::Generated plain = nn::generate_texts(*model, prompts, {.max_tokens = 40});
  const nn::Generated drafted = nn::generate_texts(*model, prompts, {.max_tokens = 40, .speculative = true});
  EXPECT_EQ(texts_of(drafted), texts_of(plain));
  std::int64_t zeros = 0;
  for (const auto& text : texts_of(plain)) zeros += std::count(text.begin(), text.end(), 0);
  EXPECT_LE(drafts_of(drafted).accepted, zeros);
  EXPECT_GT(drafts_of(drafted).drafted, 200);
  expect_plain_text(*model, [](const Drafts&) {});
}

/// How many drafts of a greedy text stay, of drafts that are made of all tokens anew, without a cache.
Drafts drafts_of_whole_texts(const nn::Transformer& model, const std::vector<std::int32_t>& prompt,
                             const std::vector<std::int32_t>& continuation) {
  const core::MemoryPtr& memory = model.memory();
  Drafts result;
  std::vector<std::int32_t> text = prompt;
  text.insert(text.end(), continuation.begin(), continuation.end());
  for (std::size_t known = prompt.size() + 1; known < text.size();) {
    std::vector<std::int32_t> guessed(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(known));
    const std::size_t wanted = std::min<std::size_t>(2, text.size() - known - 1);
    const nn::Batch batch = nn::one_sequence(memory, std::span(guessed).first(known - 1), 0);
    core::Tape off(core::Tape::Mode::Off);
    const nn::Pass pass = model.pass(batch);
    core::Var stream = model.forward(off, pass).stream;
    for (std::size_t k = 0; k < wanted; ++k) {
      const std::span<const std::int32_t> ahead = std::span<const std::int32_t>(guessed).subspan(k + 1);
      const nn::Transformer::Output out =
          model.predict(off, pass, static_cast<std::int64_t>(k), stream,
                        core::Tensor::from<std::int32_t>(memory, {std::ssize(ahead)}, ahead));
      stream = out.stream;
      const auto last = out.hidden.value.rows(batch.num_tokens() - 1, 1);
      const std::vector<double> logits = testing::values_of(core::logits_of(last, model.head().value));
      guessed.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    }
    std::size_t kept = 0;
    while (kept < wanted && guessed[known + kept] == text[known + kept]) ++kept;
    result.drafted += static_cast<std::int64_t>(wanted);
    result.accepted += static_cast<std::int64_t>(kept);
    known += kept + 1;
  }
  return result;
}

TEST(Speculative, DraftsAreThoseOfTheWholeText) {
  const auto model = model_of(trained(), dense_config());
  for (const std::int64_t most : {3, 2048}) {  // prompts in pieces, and whole
    const nn::Generated drafted = nn::generate_texts(
        *model, prompts, {.max_tokens = 50, .at_once = 3, .most_of_prompts = most, .speculative = true});
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const Drafts expected = drafts_of_whole_texts(*model, prompts[i], drafted.texts[i].tokens);
      EXPECT_EQ(drafted.texts[i].num_drafted, expected.drafted) << i;
      EXPECT_EQ(drafted.texts[i].num_accepted, expected.accepted) << i;
    }
  }
}

// Of two texts at once, whose parts end anywhere, and of drafts that never stay.
TEST(Speculative, WhatDraftsAreMadeOfIsThatOfTheWholeText) {
  nn::ModelConfig config = dense_config();
  config.num_predict_layers = 3;
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .dtype = DType::F64, .frozen = true, .with_predict = true});
  model.init_random(5);
  for (core::Parameter* p : model.parameters())  // so that attention matters
    for (std::int64_t i = 0; p->is_matrix() && i < p->value.numel(); ++i) p->value.mutable_data<double>()[i] *= 12;
  const Texts all = {some_text(31, 90), some_text(32, 90)};
  std::vector<core::Tensor> hidden;
  core::Tape off(core::Tape::Mode::Off);
  for (const auto& text : all)
    hidden.push_back(model.forward(off, model.pass(nn::one_sequence(memory, text, 0))).hidden.value);
  nn::PredictorDrafter drafter(model, 2);
  std::array<std::int64_t, 2> done = {0, 0};
  const std::vector<std::array<std::int64_t, 2>> parts_of = {{5, 70}, {1, 1}, {2, 4}, {0, 1}, {1, 1}, {3, 0}, {1, 2}};
  for (const auto& counts : parts_of) {
    std::vector<nn::DraftPart> parts;
    std::vector<std::size_t> texts;
    for (std::size_t t = 0; t < 2; ++t) {
      if (counts[t] == 0) continue;
      const std::int64_t first = std::exchange(done[t], done[t] + counts[t]);
      texts.push_back(t);
      parts.push_back({.slot = static_cast<std::int64_t>(t),
                       .first = first,
                       .end = done[t],
                       .context = done[t],
                       .tokens = std::span(all[t]).first(static_cast<std::size_t>(done[t] + 1)),
                       .hidden = hidden[t].rows(first, counts[t]),
                       .wanted = 3});
    }
    const auto guess = [&](std::size_t n, std::int64_t further) {  // never what follows
      const auto at = static_cast<std::size_t>(done[texts[n]] + 1 + further);
      return static_cast<std::int32_t>((all[texts[n]][at] + 1) % vocabulary);
    };
    std::vector<std::vector<std::vector<double>>> seen(parts.size());
    const auto drafts =
        drafter.draft(parts, [&](std::span<const std::size_t> of, const core::Tensor& last, std::int64_t further) {
          std::vector<std::int32_t> tokens;
          for (std::size_t i = 0; i < of.size(); ++i) {
            seen[of[i]].push_back(testing::values_of(last.rows(static_cast<std::int64_t>(i), 1)));
            tokens.push_back(guess(of[i], further));
          }
          return tokens;
        });
    for (std::size_t n = 0; n < parts.size(); ++n) {
      std::vector<std::int32_t> known(parts[n].tokens.begin(), parts[n].tokens.end());
      const nn::Batch batch = nn::one_sequence(memory, std::span(known).first(known.size() - 1), 0);
      const nn::Pass pass = model.pass(batch);
      core::Var stream = model.forward(off, pass).stream;
      for (std::int64_t k = 0; k < 3; ++k) {
        const auto ahead = std::span<const std::int32_t>(known).subspan(static_cast<std::size_t>(k) + 1);
        const nn::Transformer::Output out =
            model.predict(off, pass, k, stream, core::Tensor::from<std::int32_t>(memory, {std::ssize(ahead)}, ahead));
        stream = out.stream;
        testing::expect_near(seen[n].at(static_cast<std::size_t>(k)),
                             testing::values_of(out.hidden.value.rows(batch.num_tokens() - 1, 1)), 1e-11);
        known.push_back(guess(n, k));
      }
      EXPECT_EQ(drafts[n], (std::vector<std::int32_t>{guess(n, 0), guess(n, 1), guess(n, 2)}));
    }
  }
}

// With experts and latents, whose caches are narrow; drafts of random weights are hardly ever right.
TEST(Speculative, OfLatentsAndExpertsGivesThePlainText) {
  const testing::FamilyReference reference("deepseek_v3_mtp");
  const data::HuggingFaceModel source(reference.folder());
  const auto model = model_of(source, source.model_config());
  const Texts some = {{5, 9, 21, 7}, {3}, {11, 4, 28}};
  for (const double temperature : {0.0, 1.0}) {
    nn::GenerateOptions how{.max_tokens = 30, .sampling = {.temperature = temperature}, .at_once = 2};
    const nn::Generated plain = nn::generate_texts(*model, some, how);
    how.speculative = true;
    EXPECT_EQ(texts_of(nn::generate_texts(*model, some, how)), texts_of(plain));
  }
}

// A text that grows beyond the original positions is run again, turned otherwise.
TEST(Speculative, TextsThatGrowLongStayRight) {
  nn::ModelConfig config = dense_config();
  for (const std::int64_t original : {18, 19, 20, 21, 40}) {
    config.rope_scaling = {.kind = nn::RopeScaling::Kind::LongRope,
                           .factor = 4,
                           .original_positions = original,
                           .short_factors = {1, 1.1, 1.2, 1.3},
                           .long_factors = {1.5, 2.5, 3, 4}};
    const auto model = model_of(trained(), config);
    Drafts all;
    expect_plain_text(*model, [&](const Drafts& drafts) { all.accepted += drafts.accepted; });
    EXPECT_GT(all.accepted, 0);
  }
}

// What a rank of a cut model does with tokens, and one that has none.
TEST(Speculative, RanksOfACutModelGiveThePlainText) {
  const testing::FamilyReference reference("deepseek_v3_mtp");
  const data::HuggingFaceModel source(reference.folder());
  const Texts some = {{5, 9, 21, 7}, {3}, {11, 4, 28}};
  const nn::GenerateOptions how{
      .max_tokens = 20, .sampling = {.temperature = 0.8}, .stop = {12}, .at_once = 2, .speculative = true};
  const nn::Generated expected = nn::generate_texts(*model_of(source, source.model_config()), some, how);
  const Texts dense = texts_of(nn::generate_texts(*model_of(trained(), dense_config()), prompts, {.max_tokens = 50}));
  for (const auto& [layout, ranks] : {std::pair("tp2", 2), std::pair("ep2", 2), std::pair("tp2ep2", 4)})
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      nn::ModelOptions options = rank.sharded(DType::F64);
      options.frozen = options.with_predict = true;
      nn::Transformer model(source.model_config(), options);
      model.load(source);
      nn::GenerateOptions own = how;
      own.share = rank.has_first_data() ? 0 : 1;
      const nn::Generated found = nn::generate_texts(model, some, own);
      EXPECT_EQ(texts_of(found), texts_of(expected)) << layout;
      EXPECT_EQ(drafts_of(found).drafted, drafts_of(expected).drafted) << layout;
      EXPECT_EQ(drafts_of(found).accepted, drafts_of(expected).accepted) << layout;
      nn::Transformer other(dense_config(), options);
      other.load(trained());
      own = {.max_tokens = 50, .at_once = 3, .speculative = true, .share = own.share};
      EXPECT_EQ(texts_of(nn::generate_texts(other, prompts, own)), dense) << layout;
    });
}

// Another model drafts, cut over the same ranks: greedy text is the plain one, and samples are those of one rank.
TEST(Speculative, RanksOfACutModelDraftAlike) {
  nn::ModelConfig small = dense_config();
  small.num_layers = 1;
  small.num_predict_layers = 0;
  small.vocabulary = 16;  // rows of padding
  const auto whole = model_of(trained(), dense_config());
  nn::Transformer draft_of_one(small, {.memory = core::Memory::cpu(1), .dtype = DType::F64, .frozen = true});
  draft_of_one.init_random(4);
  const Texts plain = texts_of(nn::generate_texts(*whole, prompts, {.max_tokens = 50}));
  nn::GenerateOptions how{.max_tokens = 50,
                          .sampling = {.temperature = 0.8, .seed = 7},
                          .stop = {12},
                          .at_once = 3,
                          .draft = &draft_of_one,
                          .draft_tokens = 3};
  const nn::Generated sampled = nn::generate_texts(*whole, prompts, how);
  EXPECT_GT(drafts_of(sampled).accepted, 10);
  for (const auto& [layout, ranks] : {std::pair("tp2", 2), std::pair("dp2", 2), std::pair("tp2dp2", 4)})
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      nn::ModelOptions options = rank.sharded(DType::F64);
      options.frozen = true;
      nn::Transformer model(dense_config(), options), draft(small, options);
      model.load(trained());
      draft.init_random(4);
      nn::GenerateOptions own = how;
      own.draft = &draft;
      own.share = rank.has_first_data() ? 0 : 1;
      const nn::Generated found = nn::generate_texts(model, prompts, own);
      EXPECT_EQ(texts_of(found), texts_of(sampled)) << layout;
      EXPECT_EQ(drafts_of(found).drafted, drafts_of(sampled).drafted) << layout;
      EXPECT_EQ(drafts_of(found).accepted, drafts_of(sampled).accepted) << layout;
      own.sampling = {};
      own.stop = {};
      EXPECT_EQ(texts_of(nn::generate_texts(model, prompts, own)), plain) << layout;
    });
}

TEST(Speculative, NeedsPredictorsAndACache) {
  const auto refusal = [](const nn::Transformer& model, const nn::GenerateOptions& how) {
    return testing::error_of([&] { nn::generate_texts(model, prompts, how); });
  };
  const auto model = model_of(trained(), dense_config());
  EXPECT_THAT(refusal(*model, {.use_cache = false, .speculative = true}), ::testing::HasSubstr("a cache"));
  nn::ModelConfig config = dense_config();
  config.num_predict_layers = 0;
  const auto plain = model_of(trained(), config);
  EXPECT_THAT(refusal(*plain, {.speculative = true}), ::testing::HasSubstr("0 layers that predict"));
}

}  // namespace
}  // namespace limbeck
