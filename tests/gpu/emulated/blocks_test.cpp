// That the emulation sees who uses a tensor's memory when it has been given back (cuda_emulation/blocks).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "kernels/copy.h"
#include "tests/gpu/gpus.h"

namespace limbeck::core {
namespace {

constexpr std::int64_t n = 1000;

Tensor ones(const MemoryPtr& memory) { return Tensor::from<float>(memory, {n}, std::vector<float>(n, 1)); }

/// Between tensors, or what was one.
void copy(const MemoryPtr& memory, const float* from, float* to) {
  std::visit([&](const auto& device) { kernels::copy_bytes(device, from, to, n * 4); }, memory->device());
}

TEST(GpuBlocks, HoldNothingOnceTheyAreFreed) {
  const MemoryPtr memory = testing::gpu_memory(0);
  Tensor x = ones(memory), y = Tensor::empty(memory, DType::F32, {n}), z = y.clone();
  const auto* freed = x.data<float>();
  copy(memory, freed, y.mutable_data<float>());
  x = Tensor();
  copy(memory, freed, z.mutable_data<float>());
  EXPECT_THAT(host_values<float>(y), ::testing::Each(1.0F)) << "what was queued before sees the values";
  EXPECT_THAT(host_values<float>(z), ::testing::Each(::testing::IsNan()));
}

TEST(GpuBlocksDeathTest, AreNotWrittenOnceTheyAreFreed) {
  EXPECT_DEATH(
      {
        const MemoryPtr memory = testing::gpu_memory(0);
        const Tensor y = ones(memory);
        auto* freed = ones(memory).mutable_data<float>();
        copy(memory, y.data<float>(), freed);
        host_values<float>(ones(memory));
      },
      "cuda emulation: the beginning of a block of 4000 bytes: byte 0 of 4000 bytes was written after they were freed");
}

TEST(GpuBlocksDeathTest, AreNotWrittenBeyondTheirEnd) {
  EXPECT_DEATH(
      {
        const MemoryPtr memory = testing::gpu_memory(0);
        Tensor x = ones(memory);
        Tensor y = ones(memory);
        const Tensor behind = ones(memory);
        y = Tensor();
        copy(memory, behind.data<float>(), x.mutable_data<float>() + 64);
        host_values<float>(ones(memory));
      },
      "cuda emulation: the beginning of a block of 4000 bytes: .* was written after they were freed, or from beyond");
}

}  // namespace
}  // namespace limbeck::core
