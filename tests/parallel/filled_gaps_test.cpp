// Orders by costs: held against every order that there is, of two stages, and against a replay of the lists of actions.
#include "parallel/pipeline/filled_gaps.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "tests/support/written_schedule.h"

namespace limbeck::parallel {
namespace {

using ::testing::ElementsAre;
using testing::written;

constexpr auto F = ActionKind::Forward, I = ActionKind::InputGradient, W = ActionKind::WeightGradient;

int most_held(const PipelineSchedule& schedule) { return std::ranges::max(peak_activations(schedule)); }

/// The end of the last action, where each begins when what stands before it in its list, and what it needs, has ended:
/// all are asked again and again until nothing changes.
double replayed(const PipelineSchedule& schedule, const PipelineCosts& costs) {
  std::map<std::tuple<ActionKind, int, int>, double> ends;  // by kind, virtual stage and micro-batch
  const int last = schedule.num_virtual_stages() - 1;
  double makespan = 0;
  for (bool changes = true; changes;) {
    changes = false;
    for (int rank = 0; rank < schedule.num_stages(); ++rank) {
      double before = 0;
      for (const auto& [kind, m, chunk] : schedule.stages[static_cast<std::size_t>(rank)]) {
        const int stage = schedule.virtual_stage(rank, chunk);
        const auto at = static_cast<std::size_t>(stage);
        const double sent = schedule.num_stages() > 1 ? costs.communication : 0;
        double cost = costs.weight_gradient[at], start = before;
        if (kind == W) start = std::max(start, ends[{I, stage, m}]);
        if (kind == F) {
          cost = costs.forward[at];
          if (stage > 0) start = std::max(start, ends[{F, stage - 1, m}] + sent);
        }
        if (kind == I) {
          cost = costs.input_gradient[at];
          start = std::max(start, ends[{F, stage, m}]);
          if (stage < last) start = std::max(start, ends[{I, stage + 1, m}] + sent);
        }
        double& end = ends[{kind, stage, m}];
        changes = changes || end < start + cost;
        before = end = start + cost;
      }
      makespan = std::max(makespan, before);
    }
  }
  return makespan;
}

PipelineCosts random_costs(std::mt19937& random, const PipelineSchedule& schedule) {
  PipelineCosts costs = even_costs(schedule, 0, 0, 0);
  for (auto* column : {&costs.forward, &costs.input_gradient, &costs.weight_gradient})
    for (double& cost : *column) cost = static_cast<double>(random() % 9);  // whole numbers: sums are exact
  costs.communication = static_cast<double>(random() % 3);
  return costs;
}

std::vector<PipelineAction> of_kind(const std::vector<PipelineAction>& actions, ActionKind kind) {
  std::vector<PipelineAction> found;
  std::ranges::copy_if(actions, std::back_inserter(found), [=](const PipelineAction& a) { return a.kind == kind; });
  return found;
}

// Whatever costs are: the same actions, that run, in no more memory and no more time; and what is said of their time is
// what a replay finds.
TEST(FilledGaps, AreOfTheSameActionsAndMemory) {
  std::mt19937 random(11);
  int faster = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const int P = 1 + static_cast<int>(random() % 5), v = 1 + static_cast<int>(random() % 3),
              M = 1 + static_cast<int>(random() % 9);
    const PipelineSchedule given = make_schedule(ScheduleKind::ZeroBubble, P, v, M);
    const PipelineCosts costs = random_costs(random, given);
    SCOPED_TRACE(fmt::format("{} stages, {} chunks, {} micro-batches, forward {}, gradients {} and {}, sent {}", P, v,
                             M, costs.forward, costs.input_gradient, costs.weight_gradient, costs.communication));
    const PipelineSchedule found = with_gaps_filled(given, costs);
    ASSERT_NO_THROW(check_schedule(found));
    const std::vector<int> held = peak_activations(found), room = peak_activations(given);
    for (std::size_t rank = 0; rank < given.stages.size(); ++rank) EXPECT_LE(held[rank], room[rank]) << rank;
    for (std::size_t rank = 0; rank < given.stages.size(); ++rank)
      for (const ActionKind kind : {F, I, W})
        EXPECT_EQ(of_kind(found.stages[rank], kind), of_kind(given.stages[rank], kind));
    const PipelineTimes before = simulate(given, costs), times = simulate(found, costs);
    EXPECT_LE(times.makespan, before.makespan);
    EXPECT_EQ(times.makespan, replayed(found, costs));
    EXPECT_EQ(before.makespan, replayed(given, costs));
    EXPECT_EQ(found.stages, with_gaps_filled(given, costs).stages);
    if (found.stages == given.stages) continue;
    EXPECT_LT(times.makespan, 0.99 * before.makespan);
    ++faster;
  }
  EXPECT_GT(faster, 0);
}

/// Every order of the actions of a rank of one chunk in which no more are held, each kind by micro-batch.
std::vector<std::vector<PipelineAction>> orders(int num_micro_batches, int held) {
  std::vector<std::vector<PipelineAction>> all;
  std::vector<PipelineAction> taken;
  const auto go_on = [&](const auto& self, int f, int i, int w) -> void {
    if (w == num_micro_batches) return all.push_back(taken);
    const auto take = [&](ActionKind kind, int m) {
      taken.push_back({kind, m, 0});
      self(self, f + (kind == F ? 1 : 0), i + (kind == I ? 1 : 0), w + (kind == W ? 1 : 0));
      taken.pop_back();
    };
    if (f < num_micro_batches && f - w < held) take(F, f);
    if (i < f) take(I, i);
    if (w < i) take(W, w);
  };
  go_on(go_on, 0, 0, 0);
  return all;
}

/// The least time of two stages by any order of each, that holds no more than two.
double least_of_two_stages(int num_micro_batches, const PipelineCosts& costs) {
  double least = std::numeric_limits<double>::infinity();
  const auto all = orders(num_micro_batches, 2);
  for (const auto& first : all)
    for (const auto& second : all) try {
        least = std::min(least, simulate({1, num_micro_batches, {first, second}}, costs).makespan);
      } catch (const core::Error&) {  // they wait for each other
      }
  return least;
}

// ZB-H1 of stages alike waits (P - 1) max(f + b - w, f, b): within its memory nothing is faster.
TEST(FilledGaps, NothingIsFasterForStagesAlike) {
  const PipelineSchedule given = make_schedule(ScheduleKind::ZeroBubble, 2, 1, 3);
  ASSERT_EQ(most_held(given), 2);
  for (const auto& [f, b, w] : {std::array{1.0, 1.0, 1.0}, {4, 4, 3}, {3, 4, 2}, {1, 4, 3}, {2, 3, 5}, {3, 1, 2}}) {
    SCOPED_TRACE(fmt::format("{} {} {}", f, b, w));
    const PipelineCosts costs = even_costs(given, f, b, w);
    const double closed = 3 * (f + b + w) + std::max({f + b - w, f, b});
    EXPECT_EQ(least_of_two_stages(3, costs), closed);
    EXPECT_EQ(with_gaps_filled(given, costs).stages, given.stages);
  }
}

// With f = b = w the last of P stages waits (P - 1) f for its first activations, which nothing shortens.
TEST(FilledGaps, KeepTheClosedFormOfEvenCosts) {
  for (int P = 1; P <= 6; ++P)
    for (int M = P; M <= 13; ++M) {
      const PipelineSchedule given = make_schedule(ScheduleKind::ZeroBubble, P, 1, M);
      const PipelineCosts costs = even_costs(given, 2, 2, 2);
      const PipelineSchedule found = with_gaps_filled(given, costs);
      EXPECT_EQ(found.stages, given.stages) << P << " stages, " << M << " micro-batches";
      for (const double bubble : simulate(found, costs).bubble) EXPECT_NEAR(bubble, (P - 1.0) / (3 * M + P - 1), 1e-12);
    }
}

// The first stage takes 8, the second 6, of which 4 are weights: these lie where the second would wait for F1 and F2,
// not behind B2. Rank 1: F0 6 to 7, B0 8, W0 12; F1 13, B1 14, W1 18; F2, which begins on rank 0 when W0 has ended
// there at 14, 20 to 21, B2 22, W2 26. ZB-H1 has W0 14 to 18 and W1 22 to 26: 30.
TEST(FilledGaps, WeightsLieWhereAStageWaits) {
  const PipelineSchedule given = make_schedule(ScheduleKind::ZeroBubble, 2, 1, 3);
  const PipelineCosts costs{.forward = {6, 1}, .input_gradient = {1, 1}, .weight_gradient = {1, 4}};
  EXPECT_THAT(written(given), ElementsAre("F0 F1 B0 W0 F2 B1 W1 B2 W2", "F0 B0 F1 B1 W0 F2 B2 W1 W2"));
  EXPECT_EQ(simulate(given, costs).makespan, 30);
  const PipelineSchedule found = with_gaps_filled(given, costs);
  EXPECT_THAT(written(found), ElementsAre("F0 F1 B0 W0 F2 B1 W1 B2 W2", "F0 B0 W0 F1 B1 W1 F2 B2 W2"));
  EXPECT_EQ(simulate(found, costs).makespan, 26);
  EXPECT_EQ(least_of_two_stages(3, costs), 26);
}

TEST(FilledGaps, LeaveWholeBackwardsAlone) {
  for (const int chunks : {1, 2}) {
    const PipelineSchedule given = make_schedule(ScheduleKind::Interleaved, 3, chunks, 6);
    PipelineCosts costs = even_costs(given, 1, 1, 1);
    costs.forward[0] = 9;
    EXPECT_EQ(with_gaps_filled(given, costs).stages, given.stages);
  }
}

TEST(FilledGaps, CostsThatCannotBe) {
  const PipelineSchedule given = make_schedule(ScheduleKind::ZeroBubble, 2, 1, 3);
  EXPECT_THROW(with_gaps_filled(given, even_costs(given, -1, 1, 1)), core::Error);
}

}  // namespace
}  // namespace limbeck::parallel
