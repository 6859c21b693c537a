// Experts dealt anew among the ranks: by which rule, and that steps over them, and what is saved of them, are those of
// experts that stay.
#include "launch/run/expert_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/golden_steps.h"
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

/// Orders of the golden mixture's eight experts, another for each layer and step.
ExpertPlacement::Orders orders_of(std::size_t num_layers, std::int64_t step) {
  ExpertPlacement::Orders orders(num_layers);
  for (std::size_t layer = 0; layer < num_layers; ++layer)
    for (std::int64_t i = 0; i < 8; ++i)
      orders[layer].push_back((3 * i + 5 * step + static_cast<std::int64_t>(layer)) % 8);
  return orders;
}

/// What ranks would write, and the gradients of the last step.
core::StateDict all_of(testing::GoldenSteps& steps) {
  core::StateDict state = steps.state();
  for (const optim::Fragment& f : steps.fragments())
    state["gradient/" + f.parameter->name] = f.entry(f.gradient().reshape(f.shape()));
  return state;
}

/// Three steps, before each of which experts move, if they do.
testing::Seen run(const Settings& s, bool moves) {
  testing::Seen seen;
  testing::WrittenState written;
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
    ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
    for (int step = 0; step < 3; ++step) {
      if (moves) placement.go_on_with(orders_of(2, step), {}, "here");
      const testing::GoldenSteps::Step one = steps.run();
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
  testing::expect_near(run(s, true), run(s, false), 1e-9);
}

// Weights, moments, the scales of 8 bits, master weights: in every bit.
TEST_P(Moves, TakeAllThatIsKeptWithThem) {
  const Settings& s = GetParam().settings;
  testing::WrittenState written, moved, written_again, moved_again;
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
    ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
    steps.run();
    written.add(steps.state());
    placement.go_on_with(orders_of(2, 1), {}, "here");
    moved.add(steps.state());
    placement.in_model_order([&] { written_again.add(steps.state()); });
    EXPECT_EQ(placement.orders(), orders_of(2, 1));
    moved_again.add(steps.state());
  });
  const auto before = testing::values_of(written.whole()), behind = testing::values_of(moved.whole());
  EXPECT_EQ(testing::values_of(written_again.whole()), before);
  EXPECT_EQ(testing::values_of(moved_again.whole()), behind);
  int num_stacks = 0;
  for (const auto& [name, values] : before) {
    if (name.find(".experts.") == std::string::npos) {
      EXPECT_EQ(behind.at(name), values) << name;
      continue;
    }
    ++num_stacks;
    const std::int64_t layer = name[name.find("layers.") + 7] - '0', size = std::ssize(values) / 8;
    const ExpertOrder order = orders_of(2, 1)[static_cast<std::size_t>(layer)];
    std::vector<double> expected;
    for (const std::int64_t expert : order)
      expected.insert(expected.end(), values.begin() + expert * size, values.begin() + (expert + 1) * size);
    EXPECT_EQ(behind.at(name), expected) << name;
  }
  EXPECT_GE(num_stacks, 2 * 3 * 2);  // layers, matrices; values and one moment at least
}

TEST_P(Moves, AreByWhatWasCounted) {
  const Settings& s = GetParam().settings;
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
    EXPECT_DOUBLE_EQ(placement.fullest(load)[1], s.layout == "ep4" ? 0.4 : 0.5);
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

TEST(Placement, IsOfAsManyExpertsOnEachRank) {
  testing::run_ranks(3, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, {.layout = "ep3", .ranks = 3}, core::Memory::cpu(1));
    try {
      ExpertPlacement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
      ADD_FAILURE() << "expected an error";
    } catch (const core::UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("parallel.deal_experts_every_steps is given with 8 experts over ep 3"));
    }
  });
}

// An expert's blocks would begin elsewhere: five ranks share four experts.
TEST(Placement, MomentsInEightBitsAreNotCutWithinAnExpert) {
  testing::run_ranks(10, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(
        world.comm, {.layout = "dp5ep2", .ranks = 10, .eight_bit = true, .sharding = {Sharded::OptimizerState}},
        core::Memory::cpu(1));
    try {
      ExpertPlacement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
      ADD_FAILURE() << "expected an error";
    } catch (const core::UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("optimizer.eight_bit_state, which 5 ranks share (edp) of 4 experts each"));
    }
  });
}

Settings float64(Settings s) {
  s.weights = s.compute = DType::F64;
  return s;
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
        Case{"pp2ep2", float64({.layout = "pp2ep2", .ranks = 4})},
        Case{"eight_bit_shared",
             {.layout = "dp2ep2", .ranks = 4, .eight_bit = true, .sharding = {Sharded::OptimizerState}}},
        Case{"bfloat16_muon", {.layout = "ep2", .ranks = 2, .uses_muon = true, .weights = DType::BF16}}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace limbeck
