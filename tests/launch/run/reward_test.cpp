// Rewards of pairs: loss, figures and gradients are PyTorch's (tests/golden/models), one under any layout.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/step_layouts.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;
using testing::pairs_of;
using testing::StepLayout;

class RewardLayouts : public ::testing::TestWithParam<StepLayout> {};

TEST_P(RewardLayouts, LossAndGradientsAreThoseOfPyTorch) {
  const GoldenModel golden("rewards.h5");
  const StepLayout& layout = GetParam();
  const nn::ModelConfig config = nn::with_reward_head(golden.config());
  for (const DType dtype : {DType::F64, DType::F32})
    for (const std::string group : {"/plain", "/centred"})
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        nn::Transformer model(config, rank.sharded(dtype));
        model.load(golden.parameters());
        parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype, 4096);
        const optim::LanguageModelling unused;
        const launch::StepResult result =
            launch::forward_backward(rank, {model, nullptr, unused}, pairs_of(golden),
                                     {.micro_batches = layout.micro_batches,
                                      .router = golden.router(),
                                      .recompute = layout.recompute,
                                      .reward = launch::RewardConfig{golden.number("center", group)}},
                                     sync);
        const double tolerance = dtype == DType::F64 ? 1e-11 : 2e-5;
        EXPECT_NEAR(result.loss(), golden.value(group + "/loss/total"), tolerance);
        ASSERT_TRUE(result.preference);
        EXPECT_NEAR(result.preference->loss, golden.value(group + "/loss/preference"), tolerance);
        EXPECT_NEAR(result.preference->margin, golden.value(group + "/loss/margin"), tolerance);
        EXPECT_NEAR(result.preference->chosen, golden.value(group + "/loss/chosen"), tolerance);
        EXPECT_NEAR(result.preference->rejected, golden.value(group + "/loss/rejected"), tolerance);
        EXPECT_EQ(result.preference->accuracy, golden.value(group + "/loss/accuracy"));
        EXPECT_LE(golden.worst_gradient_error(model.parameters(), group + "/gradients"),
                  dtype == DType::F64 ? 1e-7 : 1e-4);
      });
}

INSTANTIATE_TEST_SUITE_P(Threads, RewardLayouts,
                         ::testing::Values(StepLayout{"dp1", 1}, StepLayout{"dp1", 1, 3},
                                           StepLayout{"dp1", 1, 2, false, true}, StepLayout{"dp2", 2},
                                           StepLayout{"dp4", 4, 3}, StepLayout{"tp2", 2}, StepLayout{"tp2", 2, 2, true},
                                           StepLayout{"ep2", 2}, StepLayout{"ep2", 2, 2, false, true},
                                           StepLayout{"etp2", 2}, StepLayout{"tp2ep2", 4}),
                         testing::name_of_layout);

/// A step of rewards in memory that the host cannot read, as a GPU's is: the same bits, and no more reads than of text.
TEST(Reward, StepsNeedNoHand) {
  const GoldenModel golden("rewards.h5");
  std::vector<std::vector<double>> gradients;
  std::vector<double> losses;
  for (const bool is_hidden : {false, true})
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1, false, is_hidden ? core::Memory::hidden_cpu(1) : core::Memory::cpu(1));
      nn::Transformer model(nn::with_reward_head(golden.config()), rank.sharded(DType::F32));
      model.load(golden.parameters());
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32);
      const optim::LanguageModelling unused;
      const std::int64_t before = rank.memory()->host_reads;
      const launch::StepResult result =
          launch::forward_backward(rank, {model, nullptr, unused}, pairs_of(golden),
                                   {.micro_batches = 2, .reward = launch::RewardConfig{0.1}}, sync);
      if (is_hidden) {
        EXPECT_EQ(rank.memory()->host_reads - before, 2);  // losses, and the experts' load
      }
      losses.push_back(result.loss());
      for (const core::Parameter* p : model.parameters())
        gradients.push_back(testing::values_of(p->slot->grad.in(rank.host_memory())));
    });
  EXPECT_EQ(losses[0], losses[1]);
  const std::size_t each = gradients.size() / 2;
  for (std::size_t i = 0; i < each; ++i) EXPECT_EQ(gradients[i], gradients[each + i]);
}

/// Held-out pairs, of two sources, on more ranks than there are pairs: rewards are PyTorch's, also those of one source.
TEST(Reward, HeldOutPairsAreThoseOfPyTorch) {
  const GoldenModel golden("rewards.h5");
  const std::vector<double> expected = golden.values("/plain/rewards");
  for (const auto& [layout, ranks] : {std::pair("dp1", 1), std::pair("dp4", 4), std::pair("tp2", 2)})
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      nn::Transformer model(nn::with_reward_head(golden.config()), rank.sharded(DType::F64));
      model.load(golden.parameters());
      data::TokenBatch samples = golden.samples();
      launch::HeldOut held_out(
          rank, {.samples = samples, .sources = {"a", "b", "none"}, .source_of = {0, 1, 1, 1}, .reward_center = 0.05},
          nullptr);
      const launch::Measurement measured = held_out.evaluate(model);
      EXPECT_EQ(measured.held_out.tokens, golden.number("num_valid"));
      ASSERT_TRUE(measured.held_out.is_of_rewards());
      EXPECT_NEAR(measured.held_out.preference->loss, golden.value("/centred/loss/preference"), 1e-11);
      EXPECT_NEAR(measured.held_out.preference->margin, golden.value("/plain/loss/margin"), 1e-11);
      ASSERT_TRUE(measured.held_out.load);
      ASSERT_EQ(measured.sets.size(), 2U);
      EXPECT_EQ(measured.sets[0].first, "held_out/a");
      EXPECT_NEAR(measured.sets[0].second.preference->chosen, expected[0], 1e-11);
      EXPECT_NEAR(measured.sets[1].second.preference->rejected, (expected[3] + expected[5] + expected[7]) / 3, 1e-11);
      EXPECT_EQ(measured.sets[0].second.tokens + measured.sets[1].second.tokens, measured.held_out.tokens);
      EXPECT_THROW(model.head(), core::Error);
    });
}

/// A head and a step that do not belong together.
TEST(Reward, IsOfAModelWithAHead) {
  const GoldenModel golden("rewards.h5");
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    const optim::LanguageModelling objective;
    for (const bool has_head : {false, true}) {
      nn::Transformer model(has_head ? nn::with_reward_head(golden.config()) : golden.config(),
                            rank.sharded(DType::F32));
      model.load(golden.parameters());
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32);
      launch::StepOptions options;
      if (!has_head) options.reward.emplace();
      EXPECT_THROW(launch::forward_backward(rank, {model, nullptr, objective}, pairs_of(golden), options, sync),
                   core::Error);
      if (!has_head) {
        EXPECT_THROW(model.reward_head(), core::Error);
      }
    }
  });
}

}  // namespace
}  // namespace limbeck
