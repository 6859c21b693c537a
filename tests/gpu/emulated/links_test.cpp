// Ranks whose collectives on GPUs fail in ways that the emulation alone brings about.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <variant>

#include "kernels/copy_queue.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/gpu/peers.h"

namespace limbeck {
namespace {

using core::DType;
using core::Reduce;
using core::Tensor;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::errors_of;
using testing::GpuGroup;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST(GpuPeers, MismatchedCollectivesEndByTheDeadlineThatNamesBoth) {
  emulation::set_mismatches_hang(true);
  const auto errors = errors_of(2, 200ms, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const Tensor x = group.numbers(4), all = group.numbers(8);
    if (world.rank == 0)
      group.comm->all_reduce(x, Reduce::Sum);
    else
      group.comm->all_gather(x, all);
    core::host_values<float>(x);
  });
  emulation::set_mismatches_hang(false);
  EXPECT_THAT(errors,
              Each(AllOf(HasSubstr("all_reduce(sum) of 4 float32 in group world"),
                         HasSubstr("all_gather of 4 float32 in group world"), HasSubstr("no end after 0.2 s"))));
}

TEST(GpuPeers, AnErrorOfNcclIsThatOfAll) {
  const auto errors = errors_of(2, 60s, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    group.comm->barrier();
    if (world.rank == 0) emulation::set_links(emulation::Links::Broken);
    group.comm->barrier();
    core::host_values<float>(group.numbers(4));  // until the watch has looked
    const auto until = std::chrono::steady_clock::now() + 10s;
    while (std::chrono::steady_clock::now() < until) core::host_values<float>(group.numbers(4));
  });
  emulation::set_links(emulation::Links::Good);
  EXPECT_THAT(errors, Each(HasSubstr("group world: NCCL says remote process exited or there was a network error")));
}

// Each waits for the GPU when it is freed, which waits for what the other has queued.
TEST(GpuPeers, GroupsThatAreStuckAreAbortedTogether) {
  const auto before = emulation::deadline();
  emulation::set_deadline(1s);  // which ends the program
  const auto errors = errors_of(2, 200ms, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const auto pair = group.comm->split(0, world.rank, "pair");
    const Tensor x = group.numbers(4), y = group.numbers(4);
    if (world.rank == 1) {
      std::this_thread::sleep_for(500ms);
      return group.comm->barrier();
    }
    const core::CommHandle first = group.comm->all_reduce_async(x, Reduce::Sum);
    pair->all_reduce(y, Reduce::Sum);
    core::host_values<float>(y);
  });
  EXPECT_THAT(errors, Each(HasSubstr("no end after 0.2 s")));
  emulation::set_deadline(before);
}

// With collectives of its own under way, to which the others do not come, and copies that wait for them.
TEST(GpuPeers, OneThatThrowsBehindWhatOnlyItHasQueuedLeavesToo) {
  emulation::set_mismatches_hang(true);
  const auto errors = testing::errors_of_steps({"tp2", 2}, [](testing::GoldenSteps& steps) {
    const core::MemoryPtr& memory = steps.rank().memory();
    const Tensor x = Tensor::zeros(memory, DType::F32, {8}), there = Tensor::zeros(memory->host(), DType::F32, {8});
    Tensor here = Tensor::zeros(memory, DType::F32, {8});
    const kernels::CopyQueuePtr copies =
        std::visit([](const auto& device) { return kernels::make_copy_queue(device); }, memory->device());
    const core::CommHandle sum = steps.rank().mesh().tp().all_reduce_async(x, Reduce::Sum);
    steps.rank().mesh().tp().all_gather_async(x, Tensor::zeros(memory, DType::F32, {16}));
    copies->follow_device();
    copies->upload(there.raw(), here.mutable_raw(), there.bytes());
    throw core::Error("it went away");
  });
  emulation::set_mismatches_hang(false);
  EXPECT_THAT(errors, ElementsAre("peer: it went away", "it went away"));
}

}  // namespace
}  // namespace limbeck
