#include "launch/run/machine_peak.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/peak.h"
#include "launch/console/progress.h"

namespace limbeck::launch {
namespace {

TEST(MachinePeak, LoopComputesWhatItCounts) {
  // x <- 0.999 x + 0.001 has the fixed point 1; after many rounds every lane is there, so the sum counts the lanes.
  const auto cpu = kernels::make_cpu(1);
  const double lanes = kernels::fma_loop_flops(1) / 2;
  EXPECT_NEAR(kernels::fma_loop(cpu, 100000), lanes, 1e-3 * lanes);
  EXPECT_EQ(kernels::fma_loop_flops(10), 10 * kernels::fma_loop_flops(1));
}

TEST(MachinePeak, IsPlausible) {
  const double one = measure_peak_flops(1);
  EXPECT_GT(one, 1e8);   // slower than any processor since 2000
  EXPECT_LT(one, 2e12);  // faster than any core
}

TEST(MachinePeak, ResidentPeakSeesMemoryThatWasTouched) {
  const auto before = peak_resident_bytes();
  EXPECT_GT(before, 0);
  const std::vector<char> touched(std::size_t{256} << 20U, 1);
  EXPECT_GE(peak_resident_bytes(), std::int64_t{256} << 20U) << touched.size();
}

TEST(MachinePeak, ThreadsAreAtLeastOne) {
  EXPECT_EQ(threads_of_rank(3), 3);
  EXPECT_GE(threads_of_rank(0), 1);
}

TEST(Progress, SaysDurationsAsPeopleDo) {
  EXPECT_EQ(duration_text(0), "0 s");
  EXPECT_EQ(duration_text(59.4), "59 s");
  EXPECT_EQ(duration_text(200), "3 min 20 s");
  EXPECT_EQ(duration_text(7500), "2 h 5 min");
  EXPECT_EQ(duration_text(-3), "0 s");
}

}  // namespace
}  // namespace limbeck::launch
