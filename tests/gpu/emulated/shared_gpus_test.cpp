// Ranks that share a GPU, which NCCL refuses: what lies there goes by way of the host.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/cuda_emulation/emulation.h"
#include "tests/gpu/gpus.h"
#include "tests/support/golden_steps.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using testing::StepSettings;

/// Of each rank's two steps. `says` is why the ranks' tensors go by way of the host.
std::vector<std::vector<double>> losses_of(const StepSettings& settings, bool on_gpus, const std::string& says) {
  std::vector<std::vector<double>> losses(static_cast<std::size_t>(settings.ranks));
  testing::run_ranks(settings.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, settings, on_gpus ? testing::gpu_memory(world.rank) : core::Memory::cpu(1));
    EXPECT_EQ(steps.rank().why_by_way_of_the_host(), says);
    for (int i = 0; i < 2; ++i) losses[static_cast<std::size_t>(world.rank)].push_back(steps.run().result.loss());
  });
  return losses;
}

class SharedGpus {
 public:
  explicit SharedGpus(int count) { emulation::set_num_devices(count); }
  ~SharedGpus() { emulation::set_num_devices(8); }
  SharedGpus(const SharedGpus&) = delete;
  SharedGpus& operator=(const SharedGpus&) = delete;
};

TEST(GpuSharing, TakesTheStepsOfTheCpu) {
  for (const auto& [settings, gpus] : {std::pair{StepSettings{"tp2", 2}, 1}, std::pair{StepSettings{"ep2", 2}, 1},
                                       std::pair{StepSettings{"dp2ep2", 4}, 2}}) {
    SCOPED_TRACE(settings.layout);
    const SharedGpus shared(gpus);
    const auto gpu = losses_of(settings, true, "ranks share a GPU, which NCCL refuses");
    const auto cpu = losses_of(settings, false, "");
    for (std::size_t r = 0; r < cpu.size(); ++r)
      for (std::size_t step = 0; step < cpu[r].size(); ++step)
        EXPECT_NEAR(gpu[r][step], cpu[r][step], 1e-5 * cpu[r][step]) << "rank " << r << ", step " << step;
  }
}

TEST(GpuSharing, IsNotWhereEachHasItsOwn) { losses_of({"tp2", 2}, true, ""); }

}  // namespace
}  // namespace limbeck
