// What ranks on GPUs end with where one of them fails.
//
//     const auto errors = errors_of(2, 300ms, [](RankWorld& world) {
//       const GpuGroup group(world);
//       group.comm->all_reduce(group.numbers(4), core::Reduce::Sum);
//       ...
//     });
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device_groups.h"
#include "tests/gpu/gpus.h"
#include "tests/support/golden_steps.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {

/// What each rank's error says, "" where it had none; it is an echo of another's where it begins with "peer: ".
inline std::vector<std::string> errors_of(int ranks, parallel::Deadline deadline,
                                          const std::function<void(RankWorld&)>& body) {
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_ANY_THROW(run_ranks(
      ranks,
      [&](RankWorld& world) {
        std::string& mine = errors[static_cast<std::size_t>(world.rank)];
        try {
          body(world);
        } catch (const parallel::PeerError& error) {
          mine = std::string("peer: ") + error.what();
          throw;
        } catch (const std::exception& error) {
          mine = error.what();
          throw;
        }
      },
      deadline));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  return errors;
}

struct GpuGroup {
  core::MemoryPtr memory;
  std::shared_ptr<parallel::WorldComm> comm;
  explicit GpuGroup(const RankWorld& world)
      : memory(gpu_memory(world.rank)), comm(parallel::device_groups(world.comm, memory)) {}
  core::Tensor numbers(std::int64_t n) const { return core::Tensor::zeros(memory, core::DType::F32, {n}); }
};

/// Of ranks that train; `leaves` is called by the last of them behind its first step.
inline std::vector<std::string> errors_of_steps(const StepSettings& settings,
                                                const std::function<void(GoldenSteps&)>& leaves) {
  return errors_of(settings.ranks, std::chrono::seconds(60), [&](RankWorld& world) {
    GoldenSteps steps(world.comm, settings, gpu_memory(world.rank));
    steps.run();
    if (world.rank == settings.ranks - 1) leaves(steps);
    for (int i = 0; i < 3; ++i) steps.run();
  });
}

}  // namespace limbeck::testing
