#include "launch/run/expert_load.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace limbeck::launch {
namespace {

ExpertLoad load(const std::vector<double>& assignments) {
  return expert_load(assignments, std::accumulate(assignments.begin(), assignments.end(), 0.0));
}

TEST(ExpertLoad, AnEvenLoadHasEntropyOne) {
  const ExpertLoad even = load({5, 5, 5});
  EXPECT_DOUBLE_EQ(even.min, 1.0 / 3);
  EXPECT_DOUBLE_EQ(even.max, 1.0 / 3);
  EXPECT_DOUBLE_EQ(even.entropy, 1);
}

TEST(ExpertLoad, OneExpertWithEverythingHasEntropyZero) {
  const ExpertLoad one = load({0, 12, 0, 0});
  EXPECT_EQ(one.min, 0);
  EXPECT_EQ(one.max, 1);
  EXPECT_EQ(one.entropy, 0);
}

TEST(ExpertLoad, EntropyIsRelativeToTheNumberOfExperts) {
  // Half of the experts share everything evenly: log(E / 2) / log(E).
  EXPECT_NEAR(load({3, 3, 0, 0}).entropy, 0.5, 1e-15);
  EXPECT_NEAR(load({2, 2, 2, 2, 0, 0, 0, 0}).entropy, 2.0 / 3, 1e-15);
  // Shares 1/2, 1/4, 1/4: 1.5 bits of log2(3).
  EXPECT_NEAR(load({2, 1, 1}).entropy, 1.5 / std::log2(3.0), 1e-15);
}

TEST(ExpertLoad, DropsAreWhatNoExpertTook) {
  EXPECT_EQ(load({3, 1}).drops, 0);
  EXPECT_EQ(expert_load(std::vector<double>{3, 1}, 10).drops, 6);
  EXPECT_EQ(expert_load(std::vector<double>{3, 1}, 10).max, 0.75);
  EXPECT_EQ(expert_load(std::vector<double>{0, 0}, 10).drops, 10);
}

TEST(ExpertLoad, NothingAssignedAndASingleExpert) {
  EXPECT_EQ(load({0, 0}).entropy, 0);
  EXPECT_EQ(load({0, 0}).max, 0);
  EXPECT_EQ(load({}).entropy, 0);
  EXPECT_EQ(load({7}).entropy, 1);
  EXPECT_EQ(load({7}).min, 1);
}

}  // namespace
}  // namespace limbeck::launch
