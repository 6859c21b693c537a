// Experts dealt anew among the ranks: by which rule, and that steps over them, and what is saved of them, are those of
// experts that stay.
#include "launch/run/expert_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/golden_steps.h"
#include "tests/support/moved_experts.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/written_state.h"

namespace limbeck {
namespace {

using core::DType;
using launch::dealt_by_load;
using launch::ExpertOrder;
using launch::ExpertPlacement;
using launch::fullest_rank;
using parallel::Sharded;
using Settings = testing::StepSettings;
using testing::float64;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Ne;

TEST(DealtByLoad, TheLongestGoFirstToWhoHasLeast) {
  // 9; 7; 6 to the second, who has 7; then 5 to the first.
  const std::vector<double> load = {9, 7, 6, 5};
  EXPECT_EQ(fullest_rank(load, {}, 2), 16);
  EXPECT_THAT(dealt_by_load(load, {}, 2), ElementsAre(0, 3, 2, 1));
  EXPECT_EQ(fullest_rank(load, {0, 3, 2, 1}, 2), 14);
}

TEST(DealtByLoad, ARankHasNoMoreThanItsPlaces) {
  // All that is light would go to the other rank.
  const std::vector<double> load = {100, 1, 1, 1, 1, 1};
  const ExpertOrder order = dealt_by_load(load, {5, 4, 3, 2, 1, 0}, 2);
  EXPECT_EQ(fullest_rank(load, order, 2), 102);
  ExpertOrder sorted = order;
  std::ranges::sort(sorted);
  EXPECT_THAT(sorted, ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(DealtByLoad, WhatMayStayStays) {
  const std::vector<double> even(6, 3);
  const ExpertOrder order = {4, 0, 2, 5, 1, 3};
  EXPECT_EQ(dealt_by_load(even, order, 3), order);
  EXPECT_EQ(dealt_by_load(std::vector<double>(6, 0), {}, 2), (ExpertOrder{0, 1, 2, 3, 4, 5}));
  // The second and the last change ranks, and take each other's place.
  EXPECT_THAT(dealt_by_load(std::vector<double>{8, 7, 2, 1}, {}, 2), ElementsAre(0, 3, 2, 1));
}

// Two, three and three places: 9 and 2; 7, 4 and 1; 6, 5 and 1.
TEST(DealtByLoad, RanksNeedNotHaveAsMany) {
  const std::vector<double> load = {9, 7, 6, 5, 4, 2, 1, 1};
  EXPECT_EQ(fullest_rank(load, {}, 3), 16);
  const ExpertOrder order = dealt_by_load(load, {}, 3);
  EXPECT_THAT(order, ElementsAre(0, 5, 1, 7, 4, 2, 6, 3));
  EXPECT_EQ(fullest_rank(load, order, 3), 12);
  EXPECT_EQ(dealt_by_load(load, order, 3), order);
}

TEST(DealtByLoad, ARankMayHaveNone) {
  const std::vector<double> load = {1, 2, 4};
  EXPECT_EQ(fullest_rank(load, {}, 4), 4);
  EXPECT_THAT(dealt_by_load(load, {2, 0, 1}, 4), ElementsAre(2, 0, 1)) << "none of which is the first rank's";
  // One and two: 5 stays on the second, 4 comes to the first, which is full then.
  EXPECT_THAT(dealt_by_load(std::vector<double>{3, 4, 5}, {}, 2), ElementsAre(1, 0, 2));
}

// The hottest with the three that have least, which nothing betters: four experts a rank.
TEST(DealtByLoad, ASkewedLayerIsAsEvenAsItCanBe) {
  std::vector<double> load;
  for (int e = 0; e < 16; ++e) load.push_back(1000.0 / (1 + e));
  EXPECT_DOUBLE_EQ(fullest_rank(load, {}, 4), load[0] + load[1] + load[2] + load[3]);
  EXPECT_DOUBLE_EQ(fullest_rank(load, dealt_by_load(load, {}, 4), 4), load[0] + load[13] + load[14] + load[15]);
}

struct Case {
  const char* name;
  Settings settings;
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

class Moves : public ::testing::TestWithParam<Case> {};

constexpr const char* all_experts = "*.experts.*";

ExpertPlacement::Orders orders_of(const Settings& s, std::int64_t step) {
  return testing::other_orders(step, s.num_experts > 0 ? s.num_experts : 8);
}

/// What ranks would write, and the gradients of the last step.
core::StateDict all_of(testing::GoldenSteps& steps) {
  core::StateDict state = testing::kept_of(steps);
  for (const optim::Fragment& f : steps.fragments())
    state["gradient/" + f.parameter->name] = f.entry(f.gradient().reshape(f.shape()));
  return state;
}

/// Three steps, before each of which experts move, if they do.
testing::Seen run(const Settings& s, bool moves, bool is_hidden = false) {
  testing::Seen seen;
  testing::WrittenState written;
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, is_hidden ? core::Memory::hidden_cpu(1) : core::Memory::cpu(1));
    ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
    for (int step = 0; step < 3; ++step) {
      if (moves) placement.go_on_with(orders_of(s, step), {}, "here");
      const testing::GoldenSteps::Step one = steps.run();
      if (s.has_expert_biases) steps.student().move_selection_biases(one.result.expert_load, 0.01);
      if (world.rank != 0) continue;
      seen.losses.push_back(one.result.loss());
      seen.norms.push_back(one.norm);
    }
    placement.in_model_order([&] { written.add(all_of(steps)); }, /*gradients_too=*/true);
  });
  seen.state = testing::values_of(written.whole());
  return seen;
}

TEST_P(Moves, LeaveStepsAsTheyAre) {
  const Settings& s = GetParam().settings;
  if (s.weights != DType::F64) GTEST_SKIP() << "what is rounded or in 8 bits is only held to its bits, below";
  const testing::Seen expected = run(s, false);
  testing::expect_near(run(s, true), expected, 1e-9);
  if (!s.has_expert_biases) return;
  for (const char* name : {"router.selection_bias", "experts.gate_bias", "experts.up_bias", "experts.down_bias"})
    EXPECT_THAT(expected.state.at(std::string("layers.1.moe.") + name), Contains(Ne(0.0))) << name << " began as 0";
}

// As a GPU's is.
TEST(Placement, MovesWhatTheHostCannotRead) {
  for (const Settings& s :
       {Settings{.layout = "dp2ep2", .ranks = 4, .eight_bit = true, .sharding = {Sharded::OptimizerState}},
        Settings{.layout = "ep2", .ranks = 2, .uses_muon = true, .weights = DType::BF16, .has_expert_biases = true}}) {
    SCOPED_TRACE(s.layout);
    const testing::Seen open = run(s, true), hidden = run(s, true, true);
    EXPECT_EQ(hidden.losses, open.losses);
    EXPECT_EQ(hidden.state, open.state);
  }
}

// Weights, moments, the scales of 8 bits, master weights, biases: in every bit. The bias by which experts are chosen
// stays in the model's order.
TEST_P(Moves, TakeAllThatIsKeptWithThem) {
  const Settings& s = GetParam().settings;
  testing::WrittenState written, moved, written_again, moved_again;
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
    ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
    const testing::GoldenSteps::Step one = steps.run();
    if (s.has_expert_biases) steps.student().move_selection_biases(one.result.expert_load, 0.01);
    written.add(testing::kept_of(steps));
    placement.go_on_with(orders_of(s, 1), {}, "here");
    moved.add(testing::kept_of(steps));
    placement.in_model_order([&] { written_again.add(testing::kept_of(steps)); });
    EXPECT_EQ(placement.orders(), orders_of(s, 1));
    moved_again.add(testing::kept_of(steps));
  });
  const auto before = testing::values_of(written.whole()), behind = testing::values_of(moved.whole());
  EXPECT_EQ(testing::values_of(written_again.whole()), before);
  EXPECT_EQ(testing::values_of(moved_again.whole()), behind);
  const int num_stacks = testing::expect_moved(before, behind, orders_of(s, 1));
  const int of_layers = 2 * (s.has_expert_biases ? 6 : 3);
  if (s.groups.empty()) {
    EXPECT_GE(num_stacks, of_layers * 2);  // one moment at least
  } else if (s.groups[0].pattern == all_experts) {
    EXPECT_EQ(num_stacks, of_layers);  // values alone
  }
}

TEST_P(Moves, AreByWhatWasCounted) {
  const Settings& s = GetParam().settings;
  if (s.num_experts > 0) GTEST_SKIP() << "loads are of eight experts";
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
    ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
    EXPECT_EQ(placement.deal(), 0);
    // The first rank's experts take everything, of the second layer; the first one is even.
    const ExpertPlacement::Counts load = {std::vector<double>(8, 1), {40, 30, 20, 10, 0, 0, 0, 0}};
    const double before = placement.fullest(load)[1];
    placement.count(load);
    placement.count(load);
    EXPECT_EQ(placement.counts()[1][1], 60);
    EXPECT_GT(placement.deal(), 0);
    EXPECT_TRUE(placement.counts().empty());
    EXPECT_THAT(placement.orders()[0], ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
    EXPECT_LT(placement.fullest(load)[1], before);
    EXPECT_DOUBLE_EQ(placement.fullest(load)[1], steps.rank().mesh().ep().size > 2 ? 0.4 : 0.5);
    placement.count(load);
    EXPECT_EQ(placement.deal(), 0) << "there is nothing to gain";
  });
}

TEST(Placement, OfAnotherModelIsOneLine) {
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, {.layout = "ep2", .ranks = 2}, core::Memory::cpu(1));
    ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
    const auto error = [&](const ExpertPlacement::Orders& orders, const ExpertPlacement::Counts& counts) {
      try {
        placement.go_on_with(orders, counts, "step_4");
      } catch (const core::Error& caught) {
        return std::string(caught.what());
      }
      return std::string("nothing");
    };
    EXPECT_THAT(error({{}, {}, {}}, {}), HasSubstr("step_4: its run's state: expert_order of 3 layers, expert_counts "
                                                   "of 0, expected of the model's 2"));
    EXPECT_THAT(error({{0, 1, 2}}, {}), HasSubstr("expert_order has 3 experts of a layer, expected each of the model's "
                                                  "8 once"));
    EXPECT_THAT(error({{0, 1, 2, 3, 4, 5, 6, 6}}, {}), HasSubstr("expert_order has 8 experts"));
    EXPECT_THAT(error({}, {std::vector<double>(8, 1)}), HasSubstr("expert_counts of 1, expected of the model's 2"));
    EXPECT_THAT(error({}, {std::vector<double>(8, 1), std::vector<double>(8, -1)}),
                HasSubstr("expert_counts are 8 numbers of a layer, expected 8, 0 or more"));
  });
}

// An expert's blocks would begin elsewhere: five ranks share four experts, three share two or three, two one or none.
// Those that share enough of them refuse it with the others.
TEST(Placement, MomentsInEightBitsAreNotCutWithinAnExpert) {
  for (const auto& [layout, ranks, num_experts, shared] : std::vector<std::tuple<const char*, int, int, const char*>>{
           {"dp5ep2", 10, 8, "5 ranks share (edp) of as few as 4 experts"},
           {"dp3ep3", 9, 8, "3 ranks share (edp) of as few as 2 experts"},
           {"dp2ep3", 6, 2, "2 ranks share (edp) of as few as 1 expert,"}}) {
    Settings s{.layout = layout, .ranks = ranks, .eight_bit = true, .sharding = {Sharded::OptimizerState}};
    s.num_experts = num_experts;
    const std::string expected = std::string("optimizer.eight_bit_state, which ") + shared;
    testing::run_ranks(ranks, [&s, &expected](testing::RankWorld& world) {
      testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
      try {
        ExpertPlacement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
        ADD_FAILURE() << "expected an error";
      } catch (const core::UsageError& error) {
        EXPECT_THAT(error.what(), HasSubstr(expected));
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Steps, Moves,
    ::testing::Values(
        Case{"ep2", float64({.layout = "ep2", .ranks = 2, .recompute = true})},
        Case{"ep4_muon", float64({.layout = "ep4", .ranks = 4, .uses_muon = true})},
        Case{"ep2_copied", float64({.layout = "ep2", .ranks = 2, .replicated = {{0, 3}, {1, 6, 7}}})},
        Case{"ep2etp2_muon", float64({.layout = "ep2etp2", .ranks = 4, .uses_muon = true})},
        Case{"dp2ep2", float64({.layout = "dp2ep2", .ranks = 4})},
        Case{"dp2ep2_optimizer", float64({.layout = "dp2ep2", .ranks = 4, .sharding = {Sharded::OptimizerState}})},
        Case{"dp2ep2_gradients", float64({.layout = "dp2ep2", .ranks = 4, .sharding = {Sharded::Gradients}})},
        Case{"dp2ep2_parameters_muon",
             float64({.layout = "dp2ep2", .ranks = 4, .uses_muon = true, .sharding = {Sharded::Parameters}})},
        Case{"ep3_muon", float64({.layout = "ep3", .ranks = 3, .uses_muon = true})},
        Case{"dp2ep3_gradients_copied",
             float64({.layout = "dp2ep3",
                      .ranks = 6,
                      .replicated = {{0, 3}, {1, 6, 7}},
                      .sharding = {Sharded::Gradients}})},
        Case{"ep5_of_four_biases",
             float64({.layout = "ep5", .ranks = 5, .has_expert_biases = true, .num_experts = 4})},
        // Of experts halves on some ranks and wholes on others.
        Case{"dp2ep3_of_four_parameters_muon", float64({.layout = "dp2ep3",
                                                        .ranks = 6,
                                                        .uses_muon = true,
                                                        .sharding = {Sharded::Parameters},
                                                        .num_experts = 4})},
        Case{"pp2ep2", float64({.layout = "pp2ep2", .ranks = 4})},
        Case{"ep2_frozen",
             float64({.layout = "ep2", .ranks = 2, .groups = {{.pattern = all_experts, .frozen = true}}})},
        Case{"dp2ep2_parameters_some_frozen", float64({.layout = "dp2ep2",
                                                       .ranks = 4,
                                                       .sharding = {Sharded::Parameters},
                                                       .groups = {{.pattern = "*.experts.up", .frozen = true}}})},
        Case{"ep2etp2_biases", float64({.layout = "ep2etp2", .ranks = 4, .has_expert_biases = true})},
        Case{"dp2ep2_optimizer_biases",
             float64({.layout = "dp2ep2",
                      .ranks = 4,
                      .sharding = {Sharded::OptimizerState},
                      .has_expert_biases = true})},
        Case{"eight_bit_shared",
             {.layout = "dp2ep2", .ranks = 4, .eight_bit = true, .sharding = {Sharded::OptimizerState}}},
        Case{"eight_bit_shared_unevenly",
             {.layout = "dp2ep3", .ranks = 6, .eight_bit = true, .sharding = {Sharded::OptimizerState}}},
        Case{"bfloat16_muon", {.layout = "ep2", .ranks = 2, .uses_muon = true, .weights = DType::BF16}}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace limbeck
