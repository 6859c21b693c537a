#include "kernels/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

namespace limbeck::kernels {
namespace {

TEST(Half, IsExactBothWays) {
  EXPECT_EQ(float_from_half(0x0001), 0x1p-24F);
  EXPECT_EQ(float_from_half(0x03ff), 1023 * 0x1p-24F);
  EXPECT_EQ(float_from_half(0x0400), 0x1p-14F);
  EXPECT_EQ(float_from_half(0x7bff), 65504.0F);
  EXPECT_EQ(float_from_half(0xbc00), -1.0F);
  EXPECT_TRUE(std::signbit(float_from_half(0x8000)));
  EXPECT_TRUE(std::isinf(float_from_half(0xfc00)));
  EXPECT_TRUE(std::isnan(float_from_half(0x7e00)));
  EXPECT_TRUE(std::isnan(float_from_half(0x7c01)));
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = float_from_half(static_cast<std::uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(float_from_half(half_from_float(value)))) << bits;
    else
      ASSERT_EQ(half_from_float(value), bits);
  }
}

// Between two halves lies a float: it goes to the even one, its neighbours to the nearer one.
TEST(Half, RoundsToNearestEven) {
  for (std::uint16_t bits = 0; bits < 0x7c00; ++bits) {
    const float low = float_from_half(bits);
    const float high = bits == 0x7bff ? 65536.0F : float_from_half(static_cast<std::uint16_t>(bits + 1));
    const float middle = (low + high) / 2;
    ASSERT_EQ(half_from_float(middle), bits + bits % 2) << middle;
    ASSERT_EQ(half_from_float(std::nextafter(middle, 0.0F)), bits) << middle;
    ASSERT_EQ(half_from_float(std::nextafter(middle, 1e6F)), bits + 1) << middle;
    ASSERT_EQ(half_from_float(-middle), 0x8000 + bits + bits % 2) << middle;
  }
  EXPECT_EQ(half_from_float(1e6F), 0x7c00);
  EXPECT_EQ(half_from_float(0x1p-149F), 0);
}

}  // namespace
}  // namespace limbeck::kernels
