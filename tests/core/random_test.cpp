#include "core/random.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

namespace limbeck::core {
namespace {

using ::testing::ElementsAre;

// philox4x32 with 10 rounds in kat_vectors of the Random123 distribution (D. E. Shaw Research).
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(kernels::philox({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U));
  constexpr std::uint32_t ones = 0xffffffffU;
  EXPECT_THAT(kernels::philox({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU));
  EXPECT_THAT(kernels::philox({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}),
              ElementsAre(0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U));
}

TEST(RandomStream, DependsOnSeedStepNameAndIndex) {
  std::set<std::uint64_t> seen;
  for (const std::uint64_t seed : {0ULL, 1ULL, 1ULL << 32U})
    for (const std::uint64_t step : {0ULL, 1ULL, 7ULL})
      for (const char* name : {"", "a", "b", "ab", "ba"})
        for (const std::uint64_t index : {0ULL, 1ULL, 1ULL << 40U})
          seen.insert(RandomStream(seed, step, name).bits(index));
  EXPECT_EQ(seen.size(), 3U * 3U * 5U * 3U);
  EXPECT_EQ(RandomStream(3, 4, "x").bits(5), RandomStream(3, 4, "x").bits(5));
}

// Bounds are six standard errors: a right generator fails once in 10^8 runs, and this one always gives the same
// numbers.
TEST(RandomStream, Distributions) {
  const RandomStream r(1, 2, "test");
  constexpr int n = 200000;
  double sum = 0, squares = 0, normal = 0, normal2 = 0, normal4 = 0, neighbours = 0;
  std::array<int, 7> counts{};
  for (int i = 0; i < n; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    const double u = r.uniform(index), z = r.normal(index);
    ASSERT_TRUE(u >= 0 && u < 1);
    sum += u;
    squares += u * u;
    normal += z;
    normal2 += z * z;
    normal4 += z * z * z * z;
    neighbours += z * r.normal(index + 1);
    ++counts[r.below(index, 7)];
  }
  const double root = std::sqrt(static_cast<double>(n));
  EXPECT_NEAR(sum / n, 0.5, 6 * std::sqrt(1.0 / 12) / root);
  EXPECT_NEAR(squares / n, 1.0 / 3, 6 * std::sqrt(4.0 / 45) / root);
  EXPECT_NEAR(normal / n, 0, 6 / root);
  EXPECT_NEAR(normal2 / n, 1, 6 * std::sqrt(2.0) / root);
  EXPECT_NEAR(normal4 / n, 3, 6 * std::sqrt(96.0) / root);
  EXPECT_NEAR(neighbours / n, 0, 6 / root);
  for (const int count : counts) EXPECT_NEAR(count, n / 7.0, 6 * std::sqrt(n * 6.0 / 49));
}

}  // namespace
}  // namespace limbeck::core
