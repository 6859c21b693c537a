#include "launch/plan/layout_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace limbeck::launch {
namespace {

class LayoutSearch : public ::testing::Test {
 protected:
  LayoutSearch() {
    cluster.devices_a_node = 2;
    cluster.float32_tflops = 1;
    cluster.memory_gb_s = 100;
    cluster.inside = {.gb_s = 10, .latency_us = 5};
    models.student = config.model->architecture;
    models.tokens = 300;
  }
  std::vector<std::string> layouts(std::vector<PlannedLayout> found) const {
    std::vector<std::string> names;
    for (const PlannedLayout& l : found) names.push_back(l.layout);
    return names;
  }
  std::vector<PlannedLayout> search(std::size_t most = 10) const {
    return best_layouts(config, models, {.num_ranks = 2}, cluster, most);
  }

  RunConfig config = parse_config(R"(
model {
  vocabulary: 300 width: 64 num_layers: 2 num_heads: 4 num_kv_heads: 2 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 64 }
}
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
batch { sequences_per_step: 4 }
)",
                                  "c");
  PlannedModels models;
  Cluster cluster{.name = "two", .memory_gib = 1};
};

// Sequences of 32 tokens are not cut.
TEST_F(LayoutSearch, TriesEveryLayoutThatFits) {
  const std::vector<PlannedLayout> found = search();
  EXPECT_THAT(layouts(found), ::testing::UnorderedElementsAre("dp2", "ep2", "tp2", "tp2ep2"));
  EXPECT_TRUE(std::ranges::is_sorted(found, {}, [](const PlannedLayout& l) { return l.time.seconds(); }));
  for (const PlannedLayout& l : found) EXPECT_EQ(l.shard, Shard::Nothing) << l.layout;
  EXPECT_EQ(search(1).size(), 1U);
  // dp2, which is the config's own, leaves a rank without a sequence.
  config.batch.sequences_per_step = 1;
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("dp2", "tp2", "tp2ep2"));
  config.parallel.layout = "ep2tp2";
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("tp2", "tp2ep2", "tp2ep2"));
  config.parallel.sequence_parallel = true;
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("tp2", "tp2ep2"));
}

TEST_F(LayoutSearch, SetsAllThatDividesAStep) {
  config.parallel.shard = Shard::Optimizer;
  config.parallel.shard_ranks = 2;
  EXPECT_THAT(search(1).front().sets(),
              ::testing::IsSupersetOf({"parallel.shard=NOTHING", "parallel.shard_ranks=0", "train.recompute=false"}));
}

TEST_F(LayoutSearch, GivesNothingThatDoesNotFit) {
  cluster.memory_gib = 0.001;
  EXPECT_TRUE(search().empty());
}

// Two layers of 67 M values each: what PARAMETERS gathers for both at once is more than GRADIENTS keeps.
TEST_F(LayoutSearch, FindsTheOneShardingThatFits) {
  nn::ModelConfig& student = models.student;
  student.moe = {};
  student.width = 2048;
  student.mlp_width = 8192;
  student.num_heads = student.num_kv_heads = 16;
  student.head_width = 128;
  cluster.devices_a_node = 1;  // no tp
  std::map<Shard, std::int64_t> least;
  for (const Shard shard : {Shard::Nothing, Shard::Optimizer, Shard::Gradients, Shard::Parameters})
    for (const bool recompute : {false, true}) {
      config.parallel.shard = shard;
      config.train.recompute = recompute;
      const std::int64_t held = plan_rank(config, models, {.num_ranks = 2}).memory.held;
      least[shard] = least.contains(shard) ? std::min(least[shard], held) : held;
    }
  std::int64_t others = INT64_MAX;
  for (const auto& [shard, held] : least)
    if (shard != Shard::Gradients) others = std::min(others, held);
  ASSERT_LT(least[Shard::Gradients], others);
  cluster.memory_gib = static_cast<double>(least[Shard::Gradients] + others) / 2 / (1 << 30);
  const std::vector<PlannedLayout> found = search();
  ASSERT_THAT(layouts(found), ::testing::ElementsAre("dp2"));
  EXPECT_EQ(found.front().shard, Shard::Gradients);
}

}  // namespace
}  // namespace limbeck::launch
