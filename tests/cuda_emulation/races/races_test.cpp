// The samples, compiled so that each access is noted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"
#include "tests/cuda_emulation/races/shadow.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation {
namespace {

using samples::Sharing;

void share(Sharing sharing) {
  const OnDevice<int> memory(std::vector<int>(256));
  samples::share(on_stream(nullptr), sharing, memory.data());
  check(cudaDeviceSynchronize());
}

TEST(EmulatedRaces, WhatIsOrderedIsNoRaceInAnyOrder) {
  const std::uint64_t before = num_noted();
  for (std::uint64_t s = 1; s <= 10; ++s) {
    set_seed(s);
    for (const Sharing sharing :
         {Sharing::by_barrier, Sharing::by_warp_barrier, Sharing::by_shuffle, Sharing::by_atomics, Sharing::own_bytes})
      share(sharing);
  }
  set_seed(1);
  EXPECT_GE(num_noted() - before, 10U * 5 * 128);
}

TEST(EmulatedRaces, RightKernelsHaveNone) {
  const OnDevice<float> x(std::vector<float>(7 * 1000, 1)), y(7 * 1000), sums(7);
  samples::affine(on_stream(nullptr), x.data(), y.data(), 7 * 1000);
  samples::row_sums(on_stream(nullptr), x.data(), sums.data(), 7, 1000);
  EXPECT_EQ(sums.read(), std::vector<float>(7, 1000));
  samples::copied_row_sums(on_stream(nullptr), x.data(), sums.data(), 7, 1000);
  EXPECT_EQ(sums.read(), std::vector<float>(7, 996));
  const OnDevice<std::uint16_t> a(std::vector<std::uint16_t>(256)), b(std::vector<std::uint16_t>(128));
  samples::tile_product(on_stream(nullptr), a.data(), b.data(), x.data(), false);
  check(cudaDeviceSynchronize());
}

struct RaceCase {
  Sharing sharing;
  const char* message;
};

class EmulatedRace : public ::testing::TestWithParam<RaceCase> {};

// With every seed: what raced need not have happened in the wrong order.
TEST_P(EmulatedRace, IsFoundAndBothPlacesAreNamed) {
  for (const std::uint64_t s : {1, 2, 3}) {
    set_seed(s);
    EXPECT_DEATH(share(GetParam().sharing), GetParam().message);
  }
  set_seed(1);
}

INSTANTIATE_TEST_SUITE_P(
    EmulatedRaces, EmulatedRace,
    ::testing::Values(
        RaceCase{
            Sharing::warps_without_barrier,
            "warps_without_barrier_kernel, block .*a race for shared memory at .*: (read|written) by thread [0-9]+ of "
            "block [01] in .*\\(sharing.cu:[0-9]+\\), and (read|written) by thread .*\\(sharing.cu:[0-9]+\\)"},
        RaceCase{Sharing::lanes_without_barrier, "lanes_without_barrier_kernel.*a race for shared memory"},
        RaceCase{Sharing::read_then_written, "read_then_written_kernel.*a race for shared memory"},
        RaceCase{Sharing::blocks_of_a_launch,
                 "blocks_of_a_launch_kernel.*a race for global memory at .*: written by thread [0-9]+ of block [01] in "
                 ".*, and "
                 "written by thread [0-9]+ of block [01] in "},
        RaceCase{Sharing::atomics_and_others,
                 "atomics_and_others_kernel.*a race for global memory.*changed atomically"}));

TEST(EmulatedRacesDeathTest, AMissingBarrierIsARace) {
  const OnDevice<float> x(std::vector<float>(1000, 1)), sums(1);
  const auto run = [&] {
    samples::row_sums(on_stream(nullptr), x.data(), sums.data(), 1, 1000, /*with_barriers=*/false);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(run(), "row_sums_kernel.*a race for shared memory.*sums.cu.*sums.cu");
}

// y = 2 x + 1 on one stream, z = 2 y + 1 on another, which forgets to wait: found in every order.
TEST(EmulatedRacesDeathTest, AMissingStreamWaitIsNamedWhateverTheOrder) {
  const OnDevice<float> x(std::vector<float>(300, 1)), y(300), z(300);
  const auto run = [&](bool wait) {
    cudaStream_t a = nullptr, b = nullptr;
    cudaEvent_t event = nullptr;
    check(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    check(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    check(cudaEventCreate(&event));
    samples::affine(on_stream(a), x.data(), y.data(), 300);
    check(cudaEventRecord(event, a));
    if (wait) check(cudaStreamWaitEvent(b, event, 0));
    samples::affine(on_stream(b), y.data(), z.data(), 300);
    check(cudaDeviceSynchronize());
  };
  for (const std::uint64_t s : {1, 2, 3}) {
    set_seed(s);
    run(/*wait=*/true);
    EXPECT_DEATH(run(/*wait=*/false),
                 "GPU 0: affine_kernel on stream [0-9]+ and affine_kernel on stream [0-9]+ touch the "
                 "memory at 0x[0-9a-f]+, and nothing orders them");
  }
  set_seed(1);
}

// Also by less than what separates allocations.
TEST(EmulatedRacesDeathTest, AReadOffByOne) {
  const OnDevice<float> x(std::vector<float>(100, 1)), y(100);
  const auto run = [&] {
    samples::shifted(on_stream(nullptr), x.data(), y.data(), 100);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(run(),
               "shifted_kernel.*an access of 4 bytes to memory of GPU 0, 3 bytes beyond the end of 400 bytes, in "
               "shifted_kernel \\(sharing.cu");
}

}  // namespace
}  // namespace limbeck::emulation
