#include "launch/console/columns.h"

#include <gtest/gtest.h>

namespace limbeck::launch {
namespace {

TEST(Columns, AreAsWideAsTheirLongestCell) {
  EXPECT_EQ(aligned({}, 2), "");
  EXPECT_EQ(aligned({{"a", "1", "x"}, {"longer", "22", ""}, {"\xc3\xa9", "3", "z"}}, 2),
            "  a       1   x\n  longer  22\n  \xc3\xa9       3   z\n");
  const std::string endless(81, 'n');  // it does not push the others away
  EXPECT_EQ(aligned({{"a", "1"}, {endless, "2"}}, 0), "a  1\n" + endless + "  2\n");
}

}  // namespace
}  // namespace limbeck::launch
