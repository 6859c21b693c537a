#include "kernels/exp.h"

#include <gtest/gtest.h>

#include <limits>

namespace limbeck::kernels {
namespace {

TEST(Exponential, IsWithinTwoUnitsInTheLastPlace) {
  for (double x = -87; x < 88.5; x += 0.00091) {
    const auto at = static_cast<float>(x);
    const double expected = std::exp(static_cast<double>(at));
    const double unit = std::nextafter(static_cast<float>(expected), INFINITY) - static_cast<float>(expected);
    ASSERT_NEAR(exponential(at), expected, 2 * unit) << at;
  }
}

TEST(Exponential, OfTheEndsAndSpecialValues) {
  EXPECT_EQ(exponential(0.0F), 1.0F);
  EXPECT_EQ(exponential(-0.0F), 1.0F);
  EXPECT_EQ(exponential(-INFINITY), 0.0F);
  EXPECT_EQ(exponential(-1000.0F), 0.0F);
  EXPECT_EQ(exponential(INFINITY), INFINITY);
  EXPECT_EQ(exponential(88.9F), INFINITY);
  EXPECT_TRUE(std::isnan(exponential(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_NEAR(exponential(-100.0F), std::exp(-100.0), 3e-45);  // subnormal
  EXPECT_EQ(exponential(1.0), std::exp(1.0));
}

TEST(PowerOf2, IsWithin2e7OfItself) {
  for (double x = -126; x < 126.9; x += 0.00091) {
    const auto at = static_cast<float>(x);
    const double expected = std::exp2(static_cast<double>(at));
    ASSERT_NEAR(power_of_2(at), expected, 2e-7 * expected) << at;
  }
}

TEST(PowerOf2, OfTheEndsAndSpecialValues) {
  EXPECT_EQ(power_of_2(0.0F), 1.0F);
  EXPECT_EQ(power_of_2(-126.0F), 0x1p-126F);
  EXPECT_EQ(power_of_2(-126.1F), 0.0F);
  EXPECT_EQ(power_of_2(-1e30F), 0.0F);
  EXPECT_EQ(power_of_2(-INFINITY), 0.0F);
  EXPECT_TRUE(std::isnan(power_of_2(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(power_of_2(-1.5), std::exp2(-1.5));
}

}  // namespace
}  // namespace limbeck::kernels
