// What layers and stages cost: FLOP by hand, bytes by what a layer has to write, and which part has what.
#include "launch/run/stage_costs.h"

#include <gmock/gmock.h>

#include <vector>

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Le;

constexpr double length = 128;

/// 4 (64 64) weights of attention, 3 (64 128) of the feed-forward and 2 (64) of norms.
constexpr double values = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64;

nn::ModelConfig model_of(std::int64_t layers) {
  nn::ModelConfig model;
  model.vocabulary = 100;
  model.width = 64;
  model.num_layers = layers;
  model.num_heads = model.num_kv_heads = 4;
  model.head_width = 16;
  model.mlp_width = 128;
  model.max_positions = 256;
  return model;
}

/// Two micro-batches of two sequences.
RunConfig config() {
  RunConfig config;
  config.data.sequence_length = static_cast<std::int64_t>(length);
  config.batch.sequences_per_step = 4;
  config.batch.micro_batches = 2;
  return config;
}

parallel::PipelineCosts costs_of(const RunConfig& c, const nn::ModelConfig& model, const StagePasses& passes = {}) {
  return costs_of_stages(c, model, {{0, 2}, {2, 1}, {3, 1}}, passes);
}

// Scores and what they weigh: two products of 2 FLOP for each of 64 channels and of the 64.5 keys that a query sees.
TEST(WorkOfLayers, FlopAreThoseOfTheArchitecture) {
  const std::vector<LayerWork> layers = work_of_layers(config(), model_of(3));
  ASSERT_EQ(layers.size(), 3U);
  for (const LayerWork& layer : layers) {
    EXPECT_DOUBLE_EQ(layer.values, values);
    EXPECT_DOUBLE_EQ(layer.used_values, values);
    EXPECT_DOUBLE_EQ(layer.weight_flops, 2 * values);
    EXPECT_DOUBLE_EQ(layer.other_flops, 2 * 2 * 64 * (length + 1) / 2);
  }
}

// A layer's products give a token 5 (64) and 2 (128) values forward, of which those of o and down may be added to the
// stream; norms, rotations, activations and sums give no more than twice that. Of gradients there is at least one of
// what attention, activation and down read. A replay makes the forward again.
TEST(WorkOfLayers, BytesAreThoseThatALayerMakes) {
  const auto given_of = [](const RunConfig& c) { return work_of_layers(c, model_of(1))[0].given; };
  const PassParts given = given_of(config());
  const double products = 4 * (5 * 64 + 2 * 128), own = 4 * (2 * 64), backward = 4 * (3 * 64 + 2 * 128 + 128);
  EXPECT_THAT(given.forward, AllOf(Ge(products - own), Le(3 * products)));
  EXPECT_THAT(given.input_gradient, AllOf(Ge(backward), Le(3 * products)));
  EXPECT_LT(given.weight_gradient, products);  // gradients of weights are added to what is there
  RunConfig again = config();
  again.train.recompute = true;
  EXPECT_NEAR(given_of(again).forward, given.forward, 0.2 * given.forward);
  EXPECT_NEAR(given_of(again).input_gradient, given.input_gradient + given.forward, 0.4 * given.forward);
  RunConfig narrow = config();
  narrow.precision.compute = core::DType::BF16;
  EXPECT_LT(given_of(narrow).forward, 0.9 * given.forward);
}

// Of four experts two compute a token, and all have weights. One layer of the two is dense.
TEST(WorkOfLayers, ExpertsAreThoseOfAToken) {
  nn::ModelConfig model = model_of(2);
  model.moe.num_experts = 4;
  model.moe.experts_per_token = 2;
  model.moe.expert_width = 32;
  model.moe.dense_layers = {0};
  const std::vector<LayerWork> layers = work_of_layers(config(), model);
  const double others = 4 * 64 * 64 + 2 * 64 + 4 * 64, expert = 3 * 64 * 32;  // with the router
  EXPECT_DOUBLE_EQ(layers[0].values, values);
  EXPECT_DOUBLE_EQ(layers[1].values, others + 4 * expert);
  EXPECT_DOUBLE_EQ(layers[1].weight_flops, 2 * (others + 2 * expert));
}

TEST(CostsOfLayer, PartsHaveWhatTheyDo) {
  const LayerWork work{.weight_flops = 1000,
                       .other_flops = 100,
                       .values = 700,
                       .used_values = 500,
                       .given = {.forward = 30, .input_gradient = 20, .weight_gradient = 1}};
  RunConfig c = config();
  const PassParts costs = costs_of_layer(work, c, 50, 10);
  EXPECT_DOUBLE_EQ(costs.forward, 1000 + 100 + 10 * 2 * 30);
  EXPECT_DOUBLE_EQ(costs.input_gradient, 1000 + 250 + 10 * (30 + 2 * 20));
  EXPECT_DOUBLE_EQ(costs.weight_gradient, 1000 + 10 * (2 * 1 + 2 * 4 * 700.0 / 50));
  c.parallel.layout = "ep2";  // half of the 200 values of experts that a token does not use lie elsewhere
  EXPECT_DOUBLE_EQ(costs_of_layer(work, c, 50, 10).weight_gradient, 1000 + 10 * (2 * 1 + 2 * 4 * 600.0 / 50));
  c.parallel.layout.clear();
  c.train.recompute = true;
  EXPECT_DOUBLE_EQ(costs_of_layer(work, c, 50, 10).input_gradient, costs.input_gradient + 1100);
  EXPECT_DOUBLE_EQ(costs_of_layer(work, c, 50, 10).forward, costs.forward);
  c.adapters.emplace();
  EXPECT_DOUBLE_EQ(costs_of_layer(work, c, 50, 10).weight_gradient, 10 * 2 * 1);
}

// The first stage has two layers and the embedding, the others one, the last with the head: all of its products, logits
// and their gradients, and the gradient of its matrix, of 256 tokens, are in the forward.
TEST(CostsOfStages, TheEndsHaveMore) {
  const parallel::PipelineCosts costs = costs_of(config(), model_of(4));
  const double a_byte = flops_a_byte(core::DType::F32, false), row = a_byte * 2 * 4 * 64,
               head = 3 * 2 * 100 * 64 + a_byte * (2 * 2 * 4 * 100 + 2 * 4 * 100 * 64 / 256.0);
  EXPECT_DOUBLE_EQ(costs.forward[0], 2 * costs.forward[1] + row);
  EXPECT_NEAR(costs.forward[2], costs.forward[1] + head, 1e-6 * head);
  EXPECT_DOUBLE_EQ(costs.input_gradient[0], 2 * costs.input_gradient[1]);
  EXPECT_DOUBLE_EQ(costs.input_gradient[2], costs.input_gradient[1]);
  EXPECT_DOUBLE_EQ(costs.weight_gradient[0], 2 * costs.weight_gradient[1] + row);
  EXPECT_DOUBLE_EQ(costs.weight_gradient[2], costs.weight_gradient[1]);
  EXPECT_GT(costs.input_gradient[1], costs.weight_gradient[1]);
  nn::ModelConfig rewards = model_of(4);
  rewards.reward_head = true;
  EXPECT_NEAR(costs_of(config(), rewards).forward[2] - costs.forward[1], head / 100, 1e-6 * head);
}

// A teacher's forward of as many FLOP as a layer's takes as long as that.
TEST(CostsOfStages, ATeacherIsBesideTheHead) {
  const double layer = 2 * values + 2 * 2 * 64 * (length + 1) / 2;
  const parallel::PipelineCosts alone = costs_of(config(), model_of(4)),
                                beside = costs_of(config(), model_of(4), {.beside_head = layer});
  EXPECT_NEAR(beside.forward[2], alone.forward[2] + alone.forward[1], 1e-6 * alone.forward[1]);
  EXPECT_EQ(beside.forward[1], alone.forward[1]);
  EXPECT_EQ(beside.input_gradient, alone.input_gradient);
}

// Each is a layer, 2 (128 64) of what reads the stream and an embedding, and a head.
TEST(CostsOfStages, LayersThatPredictAreBesideTheHead) {
  nn::ModelConfig model = model_of(4);
  const parallel::PipelineCosts none = costs_of(config(), model);
  model.num_predict_layers = 2;
  const parallel::PipelineCosts two = costs_of(config(), model);
  const double reads = 2 * 128 * 64, head = none.forward[2] - none.forward[1];
  EXPECT_EQ(two.forward[1], none.forward[1]);
  EXPECT_NEAR(two.forward[2], none.forward[2] + 2 * (none.forward[1] + reads + head), 1e-6 * head);
  EXPECT_NEAR(two.input_gradient[2], 3 * none.input_gradient[1] + 2 * reads, 1e-6 * head);
  EXPECT_NEAR(two.weight_gradient[2], 3 * none.weight_gradient[1] + 2 * reads, 1e-6 * head);
}

// With four times the ranks that read, micro-batches have a quarter of the tokens, whose gradients are added to as many
// values of four bytes, read and written.
TEST(CostsOfStages, GradientsAreAddedOnceAMicroBatch) {
  const double a_byte = flops_a_byte(core::DType::F32, false);
  const parallel::PipelineCosts few = costs_of(config(), model_of(4)),
                                many = costs_of(config(), model_of(4), {.readers = 4});
  EXPECT_NEAR(many.weight_gradient[1] - few.weight_gradient[1], a_byte * 2 * 4 * values * (4 - 1) / 256,
              1e-6 * few.weight_gradient[1]);
  EXPECT_EQ(many.input_gradient, few.input_gradient);
}

// In the model of tests/bench/layout_times.py gradients of inputs were seen to take up to 1.15 times those of weights.
TEST(CostsOfStages, AreNearWhatWasMeasured) {
  nn::ModelConfig model = model_of(8);
  model.vocabulary = 257;
  model.width = 512;
  model.num_heads = model.num_kv_heads = 8;
  model.head_width = 64;
  model.mlp_width = 1536;
  model.max_positions = 512;
  RunConfig c = config();
  c.data.sequence_length = 256;
  c.batch.sequences_per_step = 8;
  c.batch.micro_batches = 4;
  const parallel::PipelineCosts costs = costs_of(c, model);
  EXPECT_THAT(costs.input_gradient[1] / costs.weight_gradient[1], AllOf(Ge(1.05), Le(1.35)));
}

}  // namespace
}  // namespace limbeck::launch
