#include "kernels/sigmoid.h"

#include <gtest/gtest.h>

#include <limits>

namespace limbeck::kernels {
namespace {

TEST(Sigmoid, IsWithinThreeUnitsInTheLastPlace) {
  for (double x = -87; x < 90; x += 0.00091) {
    const auto at = static_cast<float>(x);
    const double expected = 1 / (1 + std::exp(-static_cast<double>(at)));
    const double unit = std::nextafter(static_cast<float>(expected), INFINITY) - static_cast<float>(expected);
    ASSERT_NEAR(sigmoid(at), expected, 3 * unit) << at;
  }
}

TEST(Sigmoid, OfTheEndsAndSpecialValues) {
  EXPECT_EQ(sigmoid(0.0F), 0.5F);
  EXPECT_EQ(sigmoid(-0.0F), 0.5F);
  for (const float far : {88.0F, 1000.0F, std::numeric_limits<float>::max(), INFINITY}) {
    EXPECT_EQ(sigmoid(far), 1.0F);
    EXPECT_EQ(sigmoid(-far), 0.0F);
  }
  EXPECT_NEAR(sigmoid(-87.7F), 0.0F, 1.2e-38F);
  EXPECT_LE(sigmoid(std::numeric_limits<float>::quiet_NaN()), 1.0F);
  EXPECT_EQ(sigmoid(1.0), 1 / (1 + std::exp(-1.0)));
}

TEST(Exponential, InRangeIsWithinTwoUnitsInTheLastPlace) {
  for (double x = -87; x < 87; x += 0.00091) {
    const auto at = static_cast<float>(x);
    const double expected = std::exp(static_cast<double>(at));
    const double unit = std::nextafter(static_cast<float>(expected), INFINITY) - static_cast<float>(expected);
    ASSERT_NEAR(exponential_in_range(at), expected, 2 * unit) << at;
  }
  EXPECT_EQ(exponential_in_range(-88.0F), 0.0F);
}

}  // namespace
}  // namespace limbeck::kernels
