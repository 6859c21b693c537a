#include "launch/report/planned_beside.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace limbeck::launch {
namespace {

// Of three ranks on one machine one is the teacher's.
TEST(PlannedBeside, RanksOfATeachersOwnAreOnTheSameMachine) {
  Plan plan{.config = {}, .models = {}, .world = {.num_ranks = 2}, .rank = {}};
  plan.config.parallel.teacher_ranks = 1;
  plan.rank.traffic = {{"world", "send", {0, 1, 2}, 2, 1000}};
  const std::vector<PlannedFigure> figures = planned_figures(RunResults(), plan, std::nullopt);
  const auto planned = [&](const char* name) {
    const auto found = std::ranges::find(figures, name, &PlannedFigure::name);
    return found == figures.end() ? std::optional<double>() : found->planned;
  };
  EXPECT_EQ(planned("sent a step along world, inside nodes").value_or(0), 1000);
  EXPECT_FALSE(planned("sent a step along world, across nodes"));
}

}  // namespace
}  // namespace limbeck::launch
