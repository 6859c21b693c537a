#include "kernels/gaussian.h"

#include <gtest/gtest.h>

#include <limits>

namespace limbeck::kernels {
namespace {

TEST(Gaussian, IsThatOfTheErrorFunction) {
  for (double x = -15; x < 15; x += 0.00091) {
    const auto at = static_cast<float>(x);
    const double wide = at, below = std::erfc(-wide / std::sqrt(2.0)) / 2;
    const double density = std::exp(-wide * wide / 2) / std::sqrt(2 * std::acos(-1.0));
    ASSERT_NEAR(gaussian(at).below, below, 2e-7) << at;
    ASSERT_NEAR(gaussian(at).density, density, 1e-7) << at;
    // The tail as a share of itself: the exponent x^2 / 2 is rounded.
    if (x < 0 && x > -12) {
      ASSERT_NEAR(gaussian(at).below, below, (4e-7 + 1e-7 * x * x) * below) << at;
    }
    ASSERT_NEAR(gaussian(wide).below, below, 1e-15);
    ASSERT_NEAR(gaussian(wide).density, density, 1e-15);
  }
}

TEST(Gaussian, OfTheEndsAndSpecialValues) {
  EXPECT_NEAR(gaussian(0.0F).below, 0.5F, 6e-8F);
  for (const float far : {13.0F, 1000.0F, std::numeric_limits<float>::max(), INFINITY}) {
    EXPECT_EQ(gaussian(far).below, 1.0F);
    EXPECT_EQ(gaussian(-far).below, 0.0F);
    EXPECT_EQ(gaussian(far).density, 0.0F);
    EXPECT_EQ(gaussian(-far).density, 0.0F);
  }
  EXPECT_LE(gaussian(std::numeric_limits<float>::quiet_NaN()).below, 1.0F);
}

}  // namespace
}  // namespace limbeck::kernels
