// `limbeck verify` on GPUs: each axis over NCCL, and values that are dealt, give the numbers of one GPU.
#include <gtest/gtest.h>

#include "tests/gpu/verified.h"

namespace limbeck {
namespace {

TEST(GpuVerify, LayoutsGiveTheNumbersOfOneRankInFloat32) {
  testing::GpuVerification verification("gpu_verification");
  EXPECT_TRUE(verification.reference().replays);
  for (const char* item : {"dp2", "tp2", "ep2", "pp2+batch.micro_batches=2", "cp2", "dp2+parallel.shard=PARAMETERS"}) {
    const launch::LayoutDifferences found = verification.differences(item);
    EXPECT_TRUE(found.within(1e-5)) << item << ' ' << found.loss << ' ' << found.gradient_norm << ' '
                                    << found.gradient.difference << ' ' << found.gradient.parameter << ' '
                                    << found.weight.difference << ' ' << found.weight.parameter;
    EXPECT_FALSE(found.first_layer(1e-4)) << item;
    EXPECT_EQ(found.hidden.size(), 2U) << item;
  }
}

}  // namespace
}  // namespace limbeck
