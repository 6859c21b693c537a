#include "core/counted.h"

#include <gtest/gtest.h>

namespace limbeck::core {
namespace {

TEST(Counted, OneIsNoPlural) {
  EXPECT_EQ(counted(1, "layer"), "1 layer");
  EXPECT_EQ(counted(0, "layer"), "0 layers");
  EXPECT_EQ(counted(30, "training token"), "30 training tokens");
}

}  // namespace
}  // namespace limbeck::core
