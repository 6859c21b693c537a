#include "core/nn/transformer.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/random.h"

namespace limbeck::nn {
namespace {

using core::host_values;
using core::Memory;

constexpr const char* head = "head.weight";

ModelConfig config() {
  return {.vocabulary = 70,
          .width = 24,
          .num_layers = 1,
          .num_heads = 2,
          .num_kv_heads = 1,
          .head_width = 12,
          .mlp_width = 16,
          .max_positions = 100,
          .moe = {}};
}

TEST(Transformer, RandomWeightsAreThoseOfTheirIndexOnAnyNumberOfThreads) {
  for (const int threads : {1, 3}) {
    Transformer model(config(), {.memory = Memory::cpu(threads)});
    model.init_random(5);
    const std::vector<float> weights = host_values<float>(model.parameter(head).value);
    const core::RandomStream random(5, 0, head);
    ASSERT_EQ(weights.size(), 70U * 24U);
    for (std::size_t i = 0; i < weights.size(); ++i)
      ASSERT_EQ(weights[i], static_cast<float>(0.02 * random.normal(i))) << i;
    EXPECT_EQ(host_values<float>(model.parameter("norm.weight").value), std::vector<float>(24, 1.F));
  }
}

TEST(Transformer, PassesShareARotaryTableThatGrows) {
  const auto memory = Memory::cpu(1);
  const Transformer model(config(), {.memory = memory});
  const auto table_of = [&](std::size_t length) {
    const std::vector<std::int32_t> tokens(length, 1);
    return model.pass(one_sequence(memory, tokens, 0)).ropes.at(0);
  };
  const auto expect_right = [&](const core::RopeTable& table, std::int64_t positions) {
    const core::RopeTable right = core::make_rope_table(memory, core::DType::F32, positions, 12, 10000.0);
    EXPECT_EQ(host_values<float>(table.cos), host_values<float>(right.cos));
    EXPECT_EQ(host_values<float>(table.sin), host_values<float>(right.sin));
  };
  const core::RopeTable first = table_of(30);
  expect_right(first, 30);
  EXPECT_EQ(table_of(7).cos.storage(), first.cos.storage());
  expect_right(table_of(31), 60);  // twice as many: a text that grows by a token makes few
  const core::RopeTable all = table_of(61);
  expect_right(all, 100);
  EXPECT_EQ(table_of(100).cos.storage(), all.cos.storage());
}

}  // namespace
}  // namespace limbeck::nn
