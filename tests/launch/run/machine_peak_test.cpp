#include "launch/run/machine_peak.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <limits>
#include <vector>

#include "kernels/peak.h"
#include "launch/console/progress.h"

namespace limbeck::launch {
namespace {

TEST(MachinePeak, LoopComputesWhatItCounts) {
  // Chain i starts at i + 2 and goes towards 1, the fixed point of x <- 0.999 x + 0.001: after n rounds it is at
  // 1 + (i + 1) 0.999^n. So the sum tells how many numbers went through how many rounds.
  constexpr int chains = 12;
  const auto cpu = kernels::make_cpu(1);
  for (const std::int64_t rounds : {0, 1, 700, 100000}) {
    const double numbers = kernels::fma_loop_flops(1) / 2;
    const double expected = numbers / chains * (chains + 78 * std::pow(0.999, static_cast<double>(rounds)));
    EXPECT_NEAR(kernels::fma_loop(cpu, rounds), expected, 5e-4 * expected) << rounds;
  }
  EXPECT_EQ(kernels::fma_loop_flops(700), 700 * kernels::fma_loop_flops(1));
}

/// Floating-point operations a second of processor time, which others on the machine do not take away.
double rate_of_processor_time() {
  const auto cpu = kernels::make_cpu(1);
  constexpr std::int64_t rounds = 2'000'000;
  double least = std::numeric_limits<double>::infinity();
  for (int run = 0; run < 5; ++run) {
    const std::clock_t start = std::clock();
    EXPECT_TRUE(std::isfinite(kernels::fma_loop(cpu, rounds)));
    least = std::min(least, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return kernels::fma_loop_flops(rounds) / least;
}

TEST(MachinePeak, IsTheRateOfTheLoop) {
  const double one = measure_peak_flops(1, core::DType::F32);
  const double rate = rate_of_processor_time();
  EXPECT_LT(one, 2 * rate);    // clocks differ in their frequency steps
  EXPECT_GT(one, rate / 100);  // others may be at work
  const double four = measure_peak_flops(4, core::DType::F32);
  EXPECT_LT(four, 8 * rate);
  EXPECT_GT(four, rate / 100);
}

TEST(MachinePeak, OfBfloat16IsTheRateOfItsProducts) {
  const auto cpu = kernels::make_cpu(1);
  EXPECT_EQ(kernels::bf16_loop_flops(1), 2.0 * 32 * 32 * 256);
  EXPECT_EQ(kernels::bf16_loop(cpu, 3), 0);
  const double peak = measure_peak_flops(1, core::DType::BF16);
  EXPECT_GT(peak, 0);
  EXPECT_LT(measure_peak_flops(4, core::DType::BF16), 16 * peak);
}

std::int64_t resident_bytes() {
  std::int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(MachinePeak, ResidentPeakSeesMemoryThatWasTouched) {
  constexpr std::int64_t mib = std::int64_t{1} << 20U;
  const std::int64_t peak = peak_resident_bytes(), resident = resident_bytes();
  const std::int64_t size = peak - resident + 256 * mib;  // so much goes above the peak, whatever was before
  const std::vector<char> touched(static_cast<std::size_t>(size), 1);
  EXPECT_NEAR(static_cast<double>(peak_resident_bytes() - peak), 256.0 * mib, 16.0 * mib) << touched.size();
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
