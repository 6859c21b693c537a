// Optimizer state and a teacher that lie in the host's memory: steps are the same, and the GPU has that memory for
// other things.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gpu/gpus.h"
#include "tests/support/offloaded_steps.h"

namespace limbeck {
namespace {

using core::DType;
using Settings = testing::StepSettings;

class GpuOffload : public ::testing::TestWithParam<Settings> {};

TEST_P(GpuOffload, HasTheBitsOfStepsOnTheDevice) {
  const auto there = testing::all_left_by(GetParam(), true, testing::gpu_memory);
  const auto here = testing::all_left_by(GetParam(), false, testing::gpu_memory);
  for (std::size_t r = 0; r < here.size(); ++r) {
    EXPECT_EQ(there[r].losses, here[r].losses);
    EXPECT_EQ(bits_of(there[r]), bits_of(here[r]));
    EXPECT_EQ(here[r].optimizer_on_host, 0);
    EXPECT_GT(there[r].optimizer_on_host, 0);
    EXPECT_GT(there[r].teacher_on_host, 0);
    EXPECT_LT(there[r].on_device, here[r].on_device - (there[r].teacher_on_host + there[r].optimizer_on_host) / 2);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, GpuOffload,
    ::testing::Values(
        Settings{}, Settings{.uses_muon = true}, Settings{.eight_bit = true},
        Settings{.compute = DType::BF16, .weights = DType::BF16},
        Settings{.layout = "dp2", .ranks = 2, .sharding = {parallel::Sharded::OptimizerState}},
        Settings{.layout = "dp2", .ranks = 2, .uses_muon = true, .sharding = {parallel::Sharded::Parameters}}),
    [](const auto& test) { return fmt::format("{}", test.index); });

TEST(GpuOffload, GoesOnFromStepsWithoutItAndTheOtherWayRound) {
  for (const Settings& settings : {Settings{.uses_muon = true}, Settings{.eight_bit = true}})
    for (const bool first : {false, true}) {
      const testing::Left before = testing::left_by(settings, first, testing::gpu_memory);
      const testing::Left same = testing::left_by(settings, first, testing::gpu_memory, &before),
                          other = testing::left_by(settings, !first, testing::gpu_memory, &before);
      EXPECT_EQ(same.losses, other.losses);
      EXPECT_EQ(bits_of(same), bits_of(other));
      EXPECT_LT(same.losses.back(), before.losses.front());
    }
}

}  // namespace
}  // namespace limbeck
