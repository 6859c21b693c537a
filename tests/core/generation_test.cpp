#include "core/nn/generation.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/ops/head_loss.h"
#include "core/random.h"
#include "tests/support/gradient_check.h"

namespace limbeck::nn {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr double inf = std::numeric_limits<double>::infinity();

/// How often each token is drawn for the places 0 to draws - 1, as a share.
std::vector<double> shares(const std::vector<double>& logits, const SamplingOptions& options, int draws = 20000) {
  std::vector<double> share(logits.size());
  for (int i = 0; i < draws; ++i)
    share[static_cast<std::size_t>(sample(logits, options, static_cast<std::uint64_t>(i)))] += 1;
  for (double& count : share) count /= draws;
  return share;
}

TEST(Sample, GreedyTakesTheHighestAndOfEqualOnesTheFirst) {
  EXPECT_EQ(sample(std::vector<double>{3}, {}, 0), 0);
  EXPECT_EQ(sample(std::vector<double>{1, 4, 2}, {}, 0), 1);
  EXPECT_EQ(sample(std::vector<double>{1, 4, 2, 4}, {}, 9), 1);
  EXPECT_EQ(sample(std::vector<double>{-inf, -5, -inf}, {}, 0), 1);
}

TEST(Sample, FrequenciesAreTheSoftmaxAtTheTemperature) {
  // Logits log(p) at temperature 1 give p; at 1/2 they give p^2 / sum p^2. Deviation of a share: below 0.0036.
  const std::vector<double> logits{std::log(0.5), std::log(0.3), std::log(0.2)};
  const std::vector<double> warm = shares(logits, {.temperature = 1});
  EXPECT_NEAR(warm[0], 0.5, 0.018);
  EXPECT_NEAR(warm[1], 0.3, 0.018);
  const std::vector<double> cold = shares(logits, {.temperature = 0.5});
  EXPECT_NEAR(cold[0], 0.25 / 0.38, 0.018);
  EXPECT_NEAR(cold[1], 0.09 / 0.38, 0.018);
  EXPECT_EQ(shares({0, -inf}, {.temperature = 1}, 1000)[1], 0);
}

TEST(Sample, TopKKeepsTheLikeliest) {
  const std::vector<double> logits{std::log(0.2), std::log(0.5), std::log(0.3)};
  EXPECT_EQ(shares(logits, {.temperature = 1, .top_k = 1}, 500)[1], 1);
  const std::vector<double> two = shares(logits, {.temperature = 1, .top_k = 2});
  EXPECT_EQ(two[0], 0);
  EXPECT_NEAR(two[1], 0.5 / 0.8, 0.018);
  EXPECT_NEAR(shares(logits, {.temperature = 1, .top_k = 100})[0], 0.2, 0.018);
  // Of equal ones the first are kept.
  EXPECT_EQ(shares({1, 1, 1}, {.temperature = 1, .top_k = 2}, 500)[2], 0);
}

TEST(Sample, TopPKeepsTheFewestThatReachIt) {
  const std::vector<double> logits{std::log(0.2), std::log(0.5), std::log(0.3)};
  EXPECT_EQ(shares(logits, {.temperature = 1, .top_p = 0.4}, 500)[1], 1);
  const std::vector<double> two = shares(logits, {.temperature = 1, .top_p = 0.7});
  EXPECT_EQ(two[0], 0);
  EXPECT_NEAR(two[1], 0.5 / 0.8, 0.018);
  EXPECT_GT(shares(logits, {.temperature = 1, .top_p = 0.9})[0], 0);
}

TEST(Sample, OneSeedAndPlaceGiveOneToken) {
  const std::vector<double> logits(50, 0.0);
  int differ = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {
    const std::int32_t token = sample(logits, {.temperature = 1, .seed = 1}, i);
    EXPECT_EQ(token, sample(logits, {.temperature = 1, .seed = 1}, i));
    differ += token != sample(logits, {.temperature = 1, .seed = 2}, i) ? 1 : 0;
  }
  EXPECT_GT(differ, 30);
}

TEST(Sample, LogitsWithoutAFiniteMaximumAreRefused) {
  const double nan = std::nan("");
  for (const double temperature : {0.0, 1.0})
    for (const std::vector<double>& logits :
         {std::vector<double>{}, {nan}, {1, nan, 2}, {nan, 1}, {1, inf}, {-inf, -inf}})
      EXPECT_THAT([&] { sample(logits, {.temperature = temperature}, 7); },
                  ThrowsMessage<core::Error>(HasSubstr("token 7 of the text")));
}

/// The group as another rank than the first sees it: sums hold what the first put in.
class AsFollower final : public BatchComm {
 public:
  explicit AsFollower(std::vector<std::vector<std::int64_t>> sums) : sums_(std::move(sums)) {}
  void sum(core::Tensor& x) override {
    ASSERT_LT(num_sums_, sums_.size());
    const std::vector<std::int64_t>& values = sums_[num_sums_++];
    ASSERT_EQ(x.numel(), static_cast<std::int64_t>(values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(x.data<std::int64_t>()[i], 0) << "a follower adds nothing";
      x.mutable_data<std::int64_t>()[i] = values[i];
    }
  }

 private:
  std::vector<std::vector<std::int64_t>> sums_;
  std::size_t num_sums_ = 0;
};

class Generate : public ::testing::Test {
 protected:
  static ModelOptions options(std::shared_ptr<BatchComm> batch = nullptr) {
    ModelOptions o{.memory = core::Memory::cpu(1), .frozen = true};
    if (batch) o.comms.batch = std::move(batch);
    return o;
  }
  const ModelConfig config_{.vocabulary = 7,
                            .width = 4,
                            .num_layers = 1,
                            .num_heads = 1,
                            .num_kv_heads = 1,
                            .head_width = 4,
                            .mlp_width = 3,
                            .max_positions = 8,
                            .moe = {}};
  const std::vector<std::int32_t> prompt_{1, 2, 3};
};

TEST_F(Generate, FillsThePositionsAndNoMore) {
  Transformer model(config_, options());
  model.init_random(1);
  const auto text = generate(model, prompt_, {.max_tokens = 5});
  EXPECT_EQ(text.size(), 5U);
  EXPECT_EQ(generate(model, prompt_, {.max_tokens = 5, .use_cache = false}), text);
  EXPECT_TRUE(generate(model, prompt_, {.max_tokens = 0}).empty());
  for (const std::int64_t many : {std::int64_t{6}, std::numeric_limits<std::int64_t>::max()})
    EXPECT_THAT([&] { generate(model, prompt_, {.max_tokens = many}); },
                ThrowsMessage<core::Error>(HasSubstr("exceed the model's 8 positions")));
  EXPECT_THAT([&] { generate(model, prompt_, {.max_tokens = -1}); },
              ThrowsMessage<core::Error>(HasSubstr("max_tokens is -1")));
  EXPECT_THAT([&] { generate(model, {}, {.max_tokens = 1}); },
              ThrowsMessage<core::Error>(HasSubstr("the prompt has no tokens")));
}

TEST_F(Generate, AWeightThatIsNotANumberIsNamedByItsPlace) {
  Transformer model(config_, options());
  model.init_random(1);
  model.parameter("norm.weight").value.mutable_data<float>()[0] = std::nanf("");
  EXPECT_THAT([&] { generate(model, prompt_, {.max_tokens = 2}); },
              ThrowsMessage<core::Error>(HasSubstr("token 3 of the text have no finite maximum")));
}

TEST_F(Generate, OtherRanksFailAsTheFirstDoes) {
  const auto follow = [&](std::vector<std::vector<std::int64_t>> sums) {
    Transformer model(config_, options(std::make_shared<AsFollower>(std::move(sums))));
    model.init_random(1);
    return generate(model, {}, {.max_tokens = 64, .share = 1});
  };
  EXPECT_EQ(follow({{3, 2}, {6}, {0}}), (std::vector<std::int32_t>{6, 0})) << "the first rank's max_tokens";
  EXPECT_THAT([&] { follow({{5000, 10}}); }, ThrowsMessage<core::Error>(HasSubstr("prompt of 5000 tokens and 10")));
  EXPECT_THAT([&] { follow({{0, 10}}); }, ThrowsMessage<core::Error>(HasSubstr("no tokens")));
  EXPECT_THAT([&] { follow({{3, 4}, {6}, {-1}}); }, ThrowsMessage<core::Error>(HasSubstr("token 4 of the text")));
}

TEST_F(Generate, OtherRanksFollowSeveralTexts) {
  const auto sums = std::vector<std::vector<std::int64_t>>{{3, 2, 2}, {6, 5}, {0, 4}};
  Transformer model(config_, options(std::make_shared<AsFollower>(sums)));
  model.init_random(1);
  const Generated all = generate_texts(model, std::vector<std::vector<std::int32_t>>(2),
                                       {.max_tokens = 64, .stop = {4}, .at_once = 2, .share = 1});
  EXPECT_EQ(all.texts[0].tokens, (std::vector<std::int32_t>{6, 0}));
  EXPECT_EQ(all.texts[1].tokens, (std::vector<std::int32_t>{5}));
  EXPECT_TRUE(all.texts[1].is_stopped);
  EXPECT_EQ(all.prefill.tokens, 0);
}

ModelConfig with_long_rope(std::vector<double> long_factors) {
  ModelConfig config{.vocabulary = 20,
                     .width = 8,
                     .num_layers = 2,
                     .num_heads = 2,
                     .num_kv_heads = 1,
                     .head_width = 4,
                     .mlp_width = 8,
                     .max_positions = 30,
                     .rope_base = 20,
                     .moe = {}};
  config.rope_scaling = {.kind = RopeScaling::Kind::LongRope,
                         .factor = 3,
                         .original_positions = 10,
                         .short_factors = {1, 1.2},
                         .long_factors = std::move(long_factors)};
  return config;
}

// The frequencies of a text are those of its length, also of what the cache holds: prompts are cut into passes, grow
// beyond the switch, or lie beyond it.
TEST(GenerateLongTexts, EachTokenIsThatOfTheWholeText) {
  const auto make_model = [](const ModelConfig& config) {
    auto model = std::make_unique<Transformer>(
        config, ModelOptions{.memory = core::Memory::cpu(1), .dtype = core::DType::F64, .frozen = true});
    for (core::Parameter* p : model->parameters())
      p->value.copy_from(testing::random_tensor(p->value.memory(), p->value.shape(), core::hash_name(p->name), 0.8));
    return model;
  };
  const auto model = make_model(with_long_rope({1.7, 4}));
  const auto by_whole_texts = [&](std::vector<std::int32_t> text, std::int64_t count) {
    std::vector<std::int32_t> added;
    while (std::ssize(added) < count) {
      core::Tape off(core::Tape::Mode::Off);
      const core::Tensor hidden = model->forward(off, model->pass(one_sequence(model->memory(), text, 0))).hidden.value;
      const core::Tensor logits = core::logits_of(hidden.rows(std::ssize(text) - 1, 1), model->head().value);
      const auto* z = logits.data<double>();
      added.push_back(static_cast<std::int32_t>(std::max_element(z, z + 20) - z));
      text.push_back(added.back());
    }
    return added;
  };
  std::vector<std::vector<std::int32_t>> prompts;
  for (const int length : {3, 9, 10, 11, 22, 1}) {
    prompts.emplace_back();
    for (int i = 0; i < length; ++i) prompts.back().push_back((7 * i * i + 3 * length + i) % 20);
  }
  std::vector<std::vector<std::int32_t>> expected;
  for (const auto& prompt : prompts) expected.push_back(by_whole_texts(prompt, 8));
  for (const std::int64_t at_once : {1, 3, 6})
    for (const std::int64_t most : {4, 7, 100})
      for (const bool use_cache : {true, false}) {
        const Generated all = generate_texts(
            *model, prompts, {.max_tokens = 8, .at_once = at_once, .most_of_prompts = most, .use_cache = use_cache});
        for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(all.texts[i].tokens, expected[i]) << i;
      }
  const auto other = make_model(with_long_rope({1, 1.2}));
  EXPECT_NE(generate(*other, prompts[4], {.max_tokens = 8}), expected[4]) << "the long factors are of effect";
  EXPECT_EQ(generate(*other, prompts[5], {.max_tokens = 8}), expected[5]) << "and of none in short texts";
}

/// In float64, where a row's products do not depend on the number of rows.
class GenerateTexts : public ::testing::Test {
 protected:
  GenerateTexts()
      : model_({.vocabulary = 20,
                .width = 8,
                .num_layers = 2,
                .num_heads = 2,
                .num_kv_heads = 1,
                .head_width = 4,
                .mlp_width = 8,
                .max_positions = 16,
                .moe = {}},
               {.memory = core::Memory::cpu(1), .dtype = core::DType::F64, .frozen = true}) {
    model_.init_random(3);
  }
  static GenerateOptions warm() { return {.max_tokens = 7, .sampling = {.temperature = 30}, .stop = {2, 3}}; }
  const std::vector<std::vector<std::int32_t>> prompts_ = {{1}, {4, 5, 6, 7, 8, 9}, {1, 2}, {7, 7, 7},
                                                           {1}, {3, 1, 4, 1}};
  Transformer model_;
};

TEST_F(GenerateTexts, EachGoesOnAsItDoesAlone) {
  GenerateOptions options = warm();
  std::vector<std::vector<std::int32_t>> alone;
  for (const auto& prompt : prompts_) alone.push_back(generate(model_, prompt, options));
  std::set<std::size_t> lengths;
  for (const auto& tokens : alone) lengths.insert(tokens.size());
  ASSERT_GT(lengths.size(), 2U) << "they end at different times";
  for (const std::int64_t at_once : {1, 2, 4, 6, 100})
    for (const bool use_cache : {true, false}) {
      options.at_once = at_once;
      options.use_cache = use_cache;
      std::vector<std::vector<std::int32_t>> seen(prompts_.size());
      std::vector<std::size_t> ended;
      options.on_token = [&](std::size_t prompt, std::int32_t token) { seen[prompt].push_back(token); };
      options.on_end = [&](std::size_t prompt, const Continuation& text) {
        EXPECT_EQ(text.tokens, alone[prompt]);
        ended.push_back(prompt);
      };
      const Generated all = generate_texts(model_, prompts_, options);
      for (std::size_t i = 0; i < prompts_.size(); ++i) {
        EXPECT_EQ(all.texts[i].tokens, alone[i]) << i << " of " << at_once;
        EXPECT_EQ(all.texts[i].is_stopped, alone[i].size() < 7);
        EXPECT_GT(all.texts[i].seconds, 0);
      }
      EXPECT_EQ(seen, alone);
      EXPECT_THAT(ended, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5));
    }
}

TEST_F(GenerateTexts, LongPromptsAreRunInPieces) {
  GenerateOptions options = warm();
  options.at_once = 4;
  const Generated whole = generate_texts(model_, prompts_, options);
  for (const std::int64_t most : {1, 2, 5}) {
    options.most_of_prompts = most;
    const Generated in_pieces = generate_texts(model_, prompts_, options);
    for (std::size_t i = 0; i < prompts_.size(); ++i) EXPECT_EQ(in_pieces.texts[i].tokens, whole.texts[i].tokens) << i;
    EXPECT_EQ(in_pieces.prefill.tokens, whole.prefill.tokens);
    EXPECT_EQ(in_pieces.decode.tokens, whole.decode.tokens);
  }
}

TEST_F(Generate, OtherRanksFollowPieces) {
  // Sizes; then, of three pieces, the last gives a token; then one a pass.
  const auto sums = std::vector<std::vector<std::int64_t>>{{5, 2}, {6}, {0}};
  Transformer model(config_, options(std::make_shared<AsFollower>(sums)));
  model.init_random(1);
  EXPECT_EQ(generate(model, {}, {.max_tokens = 64, .most_of_prompts = 2, .share = 1}),
            (std::vector<std::int32_t>{6, 0}));
}

TEST(Sample, IsWhatSortingAllGives) {
  // By the definition, in a vocabulary that is sorted in several steps: drawn where the sum of the likeliest passes u.
  std::vector<double> logits;
  for (int i = 0; i < 1500; ++i) logits.push_back(std::sin(i * 0.7) + i % 7);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  double all = 0;
  for (const double x : logits) all += std::exp(x / 3);
  for (std::uint64_t index = 0; index < 200; ++index) {
    const double u = core::RandomStream(5, 0, "generate").uniform(index) * all;
    double sum = 0;
    std::size_t n = 0;
    while ((sum += std::exp(logits[order[n]] / 3)) <= u) ++n;
    ASSERT_EQ(sample(logits, {.temperature = 3, .seed = 5}, index), order[n]) << index;
  }
}

TEST_F(GenerateTexts, TextsHaveRandomNumbersOfTheirOwn) {
  const std::vector<double> even(20, 0.0);
  int equal = 0;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const SamplingOptions one{.temperature = 1, .text = key_of_text(prompts_[0])};
    const SamplingOptions other{.temperature = 1, .text = key_of_text(prompts_[2])};
    equal += sample(even, one, i) == sample(even, other, i) ? 1 : 0;
  }
  EXPECT_LT(equal, 30);  // one in twenty
  EXPECT_EQ(key_of_text(prompts_[0]), key_of_text(prompts_[4]));
}

TEST_F(GenerateTexts, WhatWasRunIsCounted) {
  const Generated all = generate_texts(model_, prompts_, {.max_tokens = 5, .at_once = 4});
  EXPECT_EQ(all.prefill.tokens, 1 + 6 + 2 + 3 + 1 + 4);
  EXPECT_EQ(all.decode.tokens, 6 * (5 - 1));
  EXPECT_GT(all.prefill.seconds, 0);
  EXPECT_GT(all.decode.seconds, 0);
}

TEST_F(GenerateTexts, AnErrorNamesThePrompt) {
  auto prompts = prompts_;
  prompts[3].clear();
  EXPECT_THAT([&] { generate_texts(model_, prompts, warm()); },
              ThrowsMessage<core::Error>(HasSubstr("prompt 4 has no tokens")));
  EXPECT_THAT([&] { generate_texts(model_, prompts_, {.max_tokens = 11}); },
              ThrowsMessage<core::Error>(HasSubstr("prompt 2 of 6 tokens and 11 new ones exceed the model's 16")));
  prompts[3].assign(16, 1);
  const Generated fits = generate_texts(model_, prompts, {.max_tokens = 11, .fewer_where_full = true});
  EXPECT_EQ(fits.texts[0].tokens.size(), 11U);
  EXPECT_EQ(fits.texts[1].tokens.size(), 10U);
  EXPECT_TRUE(fits.texts[3].tokens.empty());
  prompts[3].assign(17, 1);
  EXPECT_THAT([&] { generate_texts(model_, prompts, {.max_tokens = 11, .fewer_where_full = true}); },
              ThrowsMessage<core::Error>(HasSubstr("prompt 4 of 17 tokens")));
}

TEST(GeneratePadded, IsNeverChosen) {
  Transformer model({.vocabulary = 40,
                     .width = 8,
                     .num_layers = 1,
                     .num_heads = 2,
                     .num_kv_heads = 1,
                     .head_width = 4,
                     .mlp_width = 8,
                     .max_positions = 256,
                     .moe = {}},
                    {.memory = core::Memory::cpu(1), .frozen = true});
  model.init_random(3);
  const std::vector<std::int32_t> prompt{1, 2};
  const auto greatest = [&](std::int64_t valid) {
    const auto ids = generate(
        model, prompt, {.max_tokens = 60, .sampling = {.temperature = 50}, .valid_vocabulary = valid, .stop = {}});
    return *std::max_element(ids.begin(), ids.end());
  };
  EXPECT_GE(greatest(-1), 4);
  EXPECT_LT(greatest(4), 4);
}

}  // namespace
}  // namespace limbeck::nn
