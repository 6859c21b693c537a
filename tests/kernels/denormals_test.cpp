#include "kernels/denormals.h"

#include <gtest/gtest.h>

#include <thread>

namespace limbeck::kernels {
namespace {

volatile float least_normal = 0x1p-126F;
volatile float denormal = 0x1p-127F;
float halved() { return least_normal * 0.5F; }

TEST(NoDenormals, HereAndInThreadsThatAreStartedMeanwhile) {
  ASSERT_EQ(halved(), denormal);
  {
    const NoDenormals none;
    EXPECT_EQ(halved(), 0);
    float elsewhere = 1;
    std::thread([&] { elsewhere = halved(); }).join();
    EXPECT_EQ(elsewhere, 0);
    EXPECT_EQ(denormal * 2.0F, least_normal);  // as a factor it is what it was
  }
  EXPECT_EQ(halved(), denormal);
}

}  // namespace
}  // namespace limbeck::kernels
