#include "launch/console/numbers.h"

#include <gtest/gtest.h>

namespace limbeck::launch {
namespace {

TEST(Numbers, AreGroupedByThousands) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
}

TEST(Numbers, LargeOnesAreShortAndHaveThreeDigits) {
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(99999), "99,999");
  EXPECT_EQ(short_count(123456), "123.5k");
  EXPECT_EQ(short_count(1234567), "1.23M");
  EXPECT_EQ(short_count(134515008), "134.5M");
  EXPECT_EQ(short_count(7.25e9), "7.25G");
}

}  // namespace
}  // namespace limbeck::launch
