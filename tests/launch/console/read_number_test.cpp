#include "launch/console/read_number.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace limbeck::launch {
namespace {

TEST(ReadNumber, WhatStandsInFrontIsTakenOff) {
  std::string_view text = "12 of -3";
  EXPECT_EQ(take_number(text), 12);
  EXPECT_EQ(text, " of -3");
  EXPECT_EQ(take_number(text), std::nullopt) << "a blank is in front";
  EXPECT_EQ(text, " of -3");
  text.remove_prefix(4);
  EXPECT_EQ(take_number(text), -3);
  EXPECT_TRUE(text.empty());
  EXPECT_EQ(take_number(text), std::nullopt);
}

TEST(ReadNumber, WhatIsTooLargeIsNone) {
  std::string_view text = "2147483648:";
  EXPECT_EQ(take_number(text), std::nullopt);
  EXPECT_EQ(text, "2147483648:");
  EXPECT_EQ(take_number<std::int64_t>(text), 2147483648);
  EXPECT_EQ(text, ":");
}

TEST(ReadNumber, AllOfATextIsOneFromTheLeastOn) {
  EXPECT_EQ(number_from("16", 1), 16);
  EXPECT_EQ(number_from("0", 0), 0);
  EXPECT_EQ(number_from("010", 0), 10);
  for (const char* text : {"0", "-1", "16x", " 16", "+16", "1.5", "0x10", "", "2147483648"})
    EXPECT_EQ(number_from(text, 1), std::nullopt) << text;
}

}  // namespace
}  // namespace limbeck
