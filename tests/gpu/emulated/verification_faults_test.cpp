// `limbeck verify` sees an operation of NCCL that is wrong, and names a parameter that it spoils.
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "tests/cuda_emulation/emulation.h"
#include "tests/gpu/verified.h"
#include "tests/support/wrapped_comm.h"

namespace limbeck {
namespace {

/// Ranks whose operations of NCCL are right until their first step, as where a run begins they are looked at.
class RightAtFirst final : public testing::WrappedComm {
 public:
  RightAtFirst(World group, const char* spoiled) : WrappedComm(std::move(group)), spoiled_(spoiled) {}
  ~RightAtFirst() override { emulation::spoil_operations(nullptr); }
  RightAtFirst(const RightAtFirst&) = delete;
  RightAtFirst& operator=(const RightAtFirst&) = delete;

  void note_step(std::int64_t step) override {
    emulation::spoil_operations(spoiled_);
    within()->note_step(step);
  }

 private:
  World around(World group) const override { return group; }

  const char* spoiled_;
};

TEST(GpuVerify, OperationsOfNcclThatAreWrongAreSeen) {
  testing::GpuVerification verification("gpu_verification_faults");
  for (const auto& [item, spoiled] : {std::pair{"dp2", "ncclAllReduce"},
                                      {"dp2+parallel.shard=GRADIENTS", "ncclReduceScatter"},
                                      {"dp2+parallel.shard=PARAMETERS", "ncclAllGather"},
                                      {"pp2+batch.micro_batches=2", "send and receive"}}) {
    SCOPED_TRACE(spoiled);
    const launch::LayoutDifferences found = verification.differences(
        item, [name = spoiled](const auto& world) { return std::make_shared<RightAtFirst>(world, name); });
    EXPECT_FALSE(found.within(1e-5));
    EXPECT_GT(found.gradient.difference, 1e-4);
    EXPECT_TRUE(verification.reference().start.contains(found.gradient.parameter));
  }
}

}  // namespace
}  // namespace limbeck
