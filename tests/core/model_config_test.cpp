#include "core/nn/model_config.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"

namespace limbeck::nn {
namespace {

using ::testing::HasSubstr;

ModelConfig dense() {
  return {.vocabulary = 10,
          .width = 8,
          .num_layers = 3,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_width = 2,
          .mlp_width = 6,
          .max_positions = 16,
          .moe = {}};
}

ModelConfig sparse() {
  ModelConfig config = dense();
  config.moe = {.num_experts = 4, .experts_per_token = 2, .expert_width = 5, .dense_layers = {1}};
  return config;
}

std::string refusal(const ModelConfig& config) {
  try {
    validate(config, "x");
  } catch (const core::UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(ModelConfig, CountsByHand) {
  // Attention: q 8x8, k and v 4x8, o 8x8; two norms of 8; a feed-forward of 3 matrices 6x8.
  const std::int64_t layer = 64 + 32 + 32 + 64 + 16 + 144;
  const std::int64_t moe_layer = 208 + 4 * 8;  // without experts, of 3 * 5 * 8 each
  EXPECT_EQ(count_parameters(dense()).total, 2 * 80 + 8 + 3 * layer);
  EXPECT_EQ(count_parameters(dense()).active, 80 + 8 + 3 * layer);
  EXPECT_EQ(count_parameters(sparse()).total, 2 * 80 + 8 + layer + 2 * (moe_layer + 4 * 120));
  EXPECT_EQ(count_parameters(sparse()).active, 80 + 8 + layer + 2 * (moe_layer + 2 * 120));
  ModelConfig shared = sparse();
  shared.moe.shared_width = 7;
  EXPECT_EQ(count_parameters(shared).total, count_parameters(sparse()).total + 2 * 3 * 7 * 8);
  EXPECT_EQ(count_parameters(shared).active, count_parameters(sparse()).active + 2 * 3 * 7 * 8);
  ModelConfig tied = dense();
  tied.tied_head = true;
  EXPECT_EQ(count_parameters(tied).total, count_parameters(dense()).total - 80);
}

// Each as the last layer, with a projection 8x16 and three norms more.
TEST(ModelConfig, LayersThatPredictAreCountedByHand) {
  const std::int64_t layer = 352 + 128 + 24, moe_layer = 208 + 4 * 8 + 128 + 24;
  ModelConfig config = dense();
  config.num_predict_layers = 2;
  EXPECT_EQ(refusal(config), "");
  EXPECT_EQ(count_parameters(config).total, count_parameters(dense()).total + 2 * layer);
  EXPECT_EQ(count_parameters(config).active, count_parameters(dense()).active);
  EXPECT_EQ(forward_flops_per_token(config, 7), forward_flops_per_token(dense(), 7));
  // Scores and what they weigh, of 4 heads of 2 channels over 4 keys on average; and the head once more.
  EXPECT_EQ(training_flops_per_token(config, 7),
            training_flops_per_token(dense(), 7) + 3 * 2 * (2.0 * (layer + 80) + 2.0 * 4 * (2 + 2) * 4));
  config = sparse();
  config.num_predict_layers = 1;
  EXPECT_EQ(count_parameters(config).total, count_parameters(sparse()).total + moe_layer + 4 * 120);
  EXPECT_EQ(config.num_moe_layers(), 2);
  EXPECT_EQ(config.num_moe_predict_layers(), 1);
  config.moe.dense_layers = {2};
  EXPECT_EQ(config.num_moe_predict_layers(), 0);
  EXPECT_FALSE(config.layer(3).is_moe);
  config.num_predict_layers = 65;
  EXPECT_THAT(refusal(config), HasSubstr("x.num_predict_layers is 65, expected 0 to 64"));
}

ModelConfig hybrid() {
  ModelConfig config = dense();
  config.mamba = {.num_heads = 6, .head_width = 4, .state_width = 5, .num_groups = 2, .conv_width = 3};
  config.mamba.attention_layers = {1};
  return config;
}

TEST(ModelConfig, LayersOfMamba2AreCountedByHand) {
  // z and x 24x8, B and C 10x8, dt 6x8, o 8x24; filters of 44 channels, 3 and a bias; dt_bias, A_log, D; a norm of 24.
  const std::int64_t mixer = 2 * 24 * 8 + 2 * 10 * 8 + 6 * 8 + 8 * 24 + 44 * 4 + 3 * 6 + 24, attention = 192;
  ModelConfig config = hybrid();
  EXPECT_EQ(refusal(config), "");
  EXPECT_EQ(config.num_mamba_layers(), 2);
  EXPECT_TRUE(config.layer(0).is_mamba);
  EXPECT_FALSE(config.layer(1).is_mamba);
  EXPECT_EQ(count_parameters(config).total, count_parameters(dense()).total + 2 * (mixer - attention));
  // Each of 24 channels decays, writes and reads 5 numbers; scores are of one layer.
  EXPECT_EQ(forward_flops_per_token(config, 7),
            2.0 * static_cast<double>(count_parameters(config).active) + 2 * 6.0 * 24 * 5 + 2.0 * 4 * (2 + 2) * 4);
  config.mamba.conv_bias = false;
  config.mamba.attention_layers.clear();
  config.feed_forward = false;
  EXPECT_EQ(refusal(config), "");
  EXPECT_EQ(count_parameters(config).total, 2 * 80 + 8 + 3 * (8 + mixer - 44));
}

TEST(ModelConfig, WhatMamba2LayersCannotBeIsRefused) {
  const auto refused = [](auto&& change) {
    ModelConfig config = hybrid();
    change(config);
    return refusal(config);
  };
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.num_groups = 4; }),
              HasSubstr("x.mamba.num_groups is 4, expected a divisor of mamba.num_heads = 6"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.conv_width = 9; }), HasSubstr("x.mamba.conv_width is 9"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.state_width = 0; }), HasSubstr("x.mamba.state_width is 0"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.head_width = -1; }), HasSubstr("x.mamba.head_width is -1"));
  EXPECT_THAT(refused([](ModelConfig& c) {
                c.mamba.attention_layers = {2, 1};
              }),
              HasSubstr("x.mamba.attention_layers has 1 after 2"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.attention_layers = {3}; }),
              HasSubstr("x.mamba.attention_layers names layer 3"));
  EXPECT_THAT(refused([](ModelConfig& c) {
                c.mamba.attention_layers = {0, 1, 2};
              }),
              HasSubstr("x.mamba.attention_layers has all 3 layers"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.num_heads = 0; }),
              HasSubstr("x.mamba.attention_layers has 1 layers, expected none without mamba.num_heads"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.mamba.most_step = c.mamba.least_step = 0.5; }),
              HasSubstr("x.mamba.most_step is 0.5, expected above least_step = 0.5"));
  EXPECT_THAT(refused([](ModelConfig& c) { c.num_predict_layers = 1; }),
              HasSubstr("x.num_predict_layers is 1, expected 0 beside Mamba-2 layers"));
  EXPECT_THAT(refused([](ModelConfig& c) {
                c.feed_forward = false;
                c.moe = sparse().moe;
              }),
              HasSubstr("x.feed_forward is false, expected true beside experts"));
}

// As GPT-2: a bias beside each matrix and norm, two matrices a feed-forward, a table of positions.
TEST(ModelConfig, CountsBiasesAndPositionsByHand) {
  ModelConfig config = dense();
  config.attention_bias = config.attention_output_bias = config.mlp_bias = config.head_bias = true;
  config.mlp_gate = false;
  config.norm_kind = NormKind::Layer;
  config.positions = Positions::Learned;
  const std::int64_t attention = 64 + 32 + 32 + 64 + (8 + 4 + 4 + 8), norms = 2 * (8 + 8);
  const std::int64_t mlp = 2 * 6 * 8 + 6 + 8;
  const std::int64_t active = 80 + 10 + 16 + 3 * (attention + norms + mlp);
  EXPECT_EQ(count_parameters(config).active, active);
  EXPECT_EQ(count_parameters(config).total, active + 80 + 16 * 8);
  EXPECT_EQ(forward_flops_per_token(config, 7),
            2.0 * static_cast<double>(active) + forward_flops_per_token(dense(), 7) - 2.0 * (80 + 8 + 3 * 352));
  config.mlp_gate = true;
  EXPECT_EQ(count_parameters(config).active, active + 3 * (6 * 8 + 6));
}

TEST(ModelConfig, WhatDoesNotGoTogetherIsRefused) {
  ModelConfig config = dense();
  config.norm_kind = NormKind::Layer;
  EXPECT_EQ(refusal(config), "");
  config.head_norm = HeadNorm::EachHead;
  EXPECT_THAT(refusal(config), HasSubstr("x.head_norm"));
  config.head_norm = HeadNorm::None;
  config.norm_offset = 1;
  EXPECT_THAT(refusal(config), HasSubstr("x.norm_offset is 1, expected 0 beside norm_kind LAYER"));
  config = sparse();
  config.mlp_gate = false;
  EXPECT_THAT(refusal(config), HasSubstr("x.mlp_gate is false, expected true beside experts"));
  config = dense();
  config.positions = Positions::Learned;
  EXPECT_EQ(refusal(config), "");
  config.rope_scaling = {.kind = RopeScaling::Kind::Linear, .factor = 2};
  EXPECT_THAT(refusal(config), HasSubstr("x.rope_scaling"));
}

ModelConfig latent() {
  ModelConfig config = dense();
  config.num_kv_heads = 4;
  config.head_width = 5;
  config.latent = {.rank = 3, .query_rank = 7, .rope_width = 2, .value_width = 6};
  return config;
}

TEST(ModelConfig, LatentsAreCountedByHand) {
  // q_a 7x8 and its norm of 7, q_b 20x7; kv_a and k_rope 5x8 and a norm of 3, k_b 12x3 and v_b 24x3; o 8x24.
  const std::int64_t layer = 56 + 7 + 140 + 40 + 3 + 36 + 72 + 192 + 16 + 144;
  EXPECT_EQ(count_parameters(latent()).total, 2 * 80 + 8 + 3 * layer);
  EXPECT_EQ(forward_flops_per_token(latent(), 7), 2.0 * (80 + 8 + 3 * layer) + 2.0 * 3 * 4 * (5 + 6) * 4);
  ModelConfig without = latent();
  without.latent.query_rank = 0;
  EXPECT_EQ(count_parameters(without).total, 2 * 80 + 8 + 3 * (layer - 56 - 7 - 140 + 20 * 8));
  ModelConfig biased = sparse();
  biased.moe.selection_bias = true;
  EXPECT_EQ(count_parameters(biased).total, count_parameters(sparse()).total + 2 * 4);
}

TEST(ModelConfig, LatentsAndGroupsFit) {
  EXPECT_EQ(refusal(latent()), "");
  const auto with = [](ModelConfig config, auto change) {
    change(config);
    return refusal(config);
  };
  EXPECT_THAT(with(latent(), [](auto& c) { c.latent.rope_width = 5; }), HasSubstr("latent.rope_width is 5"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.latent.rope_width = 6; }), HasSubstr("2 to below head_width = 5"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.latent.value_width = 0; }), HasSubstr("latent.value_width is 0"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.latent.rank = 0; }), HasSubstr("latent.rank is 0"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.latent.query_rank = -1; }), HasSubstr("latent.query_rank is -1"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.latent.norm_eps = 0; }), HasSubstr("latent.norm_eps is 0"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.num_kv_heads = 2; }), HasSubstr("num_kv_heads is 2"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.attention_bias = true; }), HasSubstr("attention_bias is true"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.head_norm = HeadNorm::EachHead; }), HasSubstr("head_norm is given"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.attention_output_bias = true; }), HasSubstr("attention_output_bias is"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.norm_kind = NormKind::Layer; }), HasSubstr("norm_kind is LAYER"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.positions = Positions::Learned; }), HasSubstr("positions is LEARNED"));
  EXPECT_THAT(with(latent(), [](auto& c) { c.rotary_width = 2; }), HasSubstr("rotary_width is given"));
  EXPECT_THAT(with(sparse(), [](auto& c) { c.moe.num_groups = 3; }), HasSubstr("moe.num_groups is 3"));
  EXPECT_THAT(with(sparse(), [](auto& c) { c.moe.groups_per_token = 2; }), HasSubstr("moe.groups_per_token is 2"));
  EXPECT_THAT(with(sparse(), [](auto& c) { c.moe.num_groups = 4; }),
              HasSubstr("moe.experts_per_token is 2, expected at most 1"));
  const auto by_two = [](auto& c) {
    c.moe.num_groups = c.moe.groups_per_token = 4, c.moe.group_score = GroupScore::BestTwo;
  };
  EXPECT_THAT(with(sparse(), by_two), HasSubstr("groups of two experts or more"));
}

TEST(ModelConfig, ASparseMixerHasNoOtherScores) {
  ModelConfig mixer = sparse();
  mixer.moe.router = RouterKind::SparseMixer;
  mixer.moe.renormalise = false;
  EXPECT_EQ(refusal(mixer), "");
  for (const auto change : {+[](MoeConfig& m) { m.scores = RouterScores::Sigmoid; },
                            +[](MoeConfig& m) { m.selection_bias = true; }, +[](MoeConfig& m) { m.num_groups = 2; }}) {
    ModelConfig config = mixer;
    change(config.moe);
    EXPECT_THAT(refusal(config), HasSubstr("x.moe.router is SPARSE_MIXER, expected TOP_K"));
  }
}

TEST(ModelConfig, SomeChannelsOfAHeadTurn) {
  EXPECT_EQ(dense().turning_width(), dense().head_width);
  EXPECT_EQ(latent().turning_width(), 2);
  ModelConfig part = dense();
  part.head_width = 6;
  part.rotary_width = 4;
  EXPECT_EQ(refusal(part), "");
  EXPECT_EQ(part.turning_width(), 4);
}

TEST(ModelConfig, OperationsByHand) {
  // A product of queries and keys and one of probabilities and values: each of 3 layers 4 heads of width 2 on (7 + 1) /
  // 2 keys, times 2 for multiplying and adding.
  const double attention = 2.0 * 2 * 3 * 4 * 2 * 4;
  EXPECT_EQ(forward_flops_per_token(dense(), 7), 2.0 * (80 + 8 + 3 * 352) + attention);
  EXPECT_EQ(forward_flops_per_token(sparse(), 7), 2.0 * (80 + 8 + 352 + 2 * (240 + 2 * 120)) + attention);
  EXPECT_EQ(training_flops_per_token(dense(), 7), 3 * forward_flops_per_token(dense(), 7));
}

TEST(ModelConfig, EveryFieldHasALimit) {
  EXPECT_EQ(refusal(dense()), "");
  EXPECT_EQ(refusal(sparse()), "");
  const auto with = [](ModelConfig config, auto field, auto value) {
    field(config) = value;
    return refusal(config);
  };
  const auto check_integer = [&](const char* name, auto field) {
    for (const std::int64_t value : {std::int64_t{1} << 62, std::numeric_limits<std::int64_t>::max()})
      EXPECT_THAT(with(sparse(), field, value), HasSubstr(name)) << value;
    for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()})
      EXPECT_THAT(with(sparse(), field, value), HasSubstr(name)) << value;
  };
  check_integer(
      "x.vocabulary is", [](ModelConfig & c) -> auto& { return c.vocabulary; });
  check_integer(
      "x.width is", [](ModelConfig & c) -> auto& { return c.width; });
  check_integer(
      "x.num_layers is", [](ModelConfig & c) -> auto& { return c.num_layers; });
  check_integer(
      "x.num_heads is", [](ModelConfig & c) -> auto& { return c.num_heads; });
  check_integer(
      "x.num_kv_heads is", [](ModelConfig & c) -> auto& { return c.num_kv_heads; });
  check_integer(
      "x.head_width is", [](ModelConfig & c) -> auto& { return c.head_width; });
  check_integer(
      "x.mlp_width is", [](ModelConfig & c) -> auto& { return c.mlp_width; });
  check_integer(
      "x.max_positions is", [](ModelConfig & c) -> auto& { return c.max_positions; });
  check_integer(
      "x.moe.expert_width is", [](ModelConfig & c) -> auto& { return c.moe.expert_width; });
  check_integer(
      "x.moe.experts_per_token is", [](ModelConfig & c) -> auto& { return c.moe.experts_per_token; });
  const auto experts = [](ModelConfig & c) -> auto& { return c.moe.num_experts; };
  EXPECT_THAT(with(sparse(), experts, 65537), HasSubstr("x.moe.num_experts is 65537, expected at most 65536"));
  EXPECT_THAT(with(sparse(), experts, -1), HasSubstr("x.moe.num_experts is -1"));
  const auto unused = [](ModelConfig & c) -> auto& { return c.mlp_width; };
  ModelConfig all_sparse = sparse();
  all_sparse.moe.dense_layers = {};
  EXPECT_EQ(with(all_sparse, unused, 0), "");
  EXPECT_THAT(with(all_sparse, unused, std::int64_t{1} << 62), HasSubstr("x.mlp_width"));
  for (const double value : {0.0, -1.0, HUGE_VAL, std::nan("")}) {
    EXPECT_THAT(with(
                    dense(), [](ModelConfig & c) -> auto& { return c.norm_eps; }, value),
                HasSubstr("x.norm_eps"));
    EXPECT_THAT(with(
                    dense(), [](ModelConfig & c) -> auto& { return c.rope_base; }, value),
                HasSubstr("x.rope_base"));
    EXPECT_THAT(with(
                    sparse(), [](ModelConfig & c) -> auto& { return c.moe.weight_scale; }, value),
                HasSubstr("x.moe.weight_scale"));
  }
}

TEST(ModelConfig, AllAtTheirLimitsAreTooManyParameters) {
  using Limits = ModelLimits;
  ModelConfig config = dense();
  config.vocabulary = Limits::vocabulary;
  config.width = config.mlp_width = Limits::width;
  config.num_layers = Limits::num_layers;
  config.num_heads = config.num_kv_heads = Limits::num_heads;
  config.head_width = Limits::head_width;
  config.max_positions = Limits::max_positions;
  EXPECT_THAT(refusal(config), HasSubstr("parameters, expected at most"));
}

TEST(ModelConfig, DenseLayersAscendAndExist) {
  ModelConfig config = sparse();
  config.moe.dense_layers = {0, 2};
  EXPECT_EQ(refusal(config), "");
  config.moe.dense_layers = {2, 2};
  EXPECT_THAT(refusal(config), HasSubstr("has 2 after 2, expected ascending"));
  config.moe.dense_layers = {3};
  EXPECT_THAT(refusal(config), HasSubstr("names layer 3, expected 0 to 2"));
  config.moe.dense_layers = {-1};
  EXPECT_THAT(refusal(config), HasSubstr("names layer -1"));
}

}  // namespace
}  // namespace limbeck::nn
