#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"
#include "tests/cuda_emulation/runtime/device_memory.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr int n = 1000;

struct PinnedFloats {
  float* data = nullptr;
  PinnedFloats() {
    check(cudaMallocHost(reinterpret_cast<void**>(&data), n * sizeof(float)));
    std::fill_n(data, n, 1.0F);
  }
  ~PinnedFloats() { cudaFreeHost(data); }
  PinnedFloats(const PinnedFloats&) = delete;
  PinnedFloats& operator=(const PinnedFloats&) = delete;
};

struct TwoStreams {
  cudaStream_t a = nullptr, b = nullptr;
  cudaEvent_t event = nullptr;
  TwoStreams() {
    check(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    check(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~TwoStreams() {
    cudaDeviceSynchronize();
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaEventDestroy(event);
  }
  TwoStreams(const TwoStreams&) = delete;
  TwoStreams& operator=(const TwoStreams&) = delete;
};

// y = 2 (2 x + 1) + 1 on two streams, the second of which waits for the first, or forgets to.
std::vector<float> two_steps(bool wait) {
  const OnDevice<float> x(std::vector<float>(n, 1)), y(n), z(n);
  const TwoStreams streams;
  samples::affine(on_stream(streams.a), x.data(), y.data(), n);
  check(cudaEventRecord(streams.event, streams.a));
  if (wait) check(cudaStreamWaitEvent(streams.b, streams.event, 0));
  samples::affine(on_stream(streams.b), y.data(), z.data(), n);
  return z.read();
}

TEST(EmulatedRuntime, EventsOrderStreamsWithEverySeed) {
  for (std::uint64_t s = 1; s <= 30; ++s) {
    set_seed(s);
    EXPECT_THAT(two_steps(true), Each(7.0F)) << s;
  }
}

TEST(EmulatedRuntime, AMissingWaitIsSeenInSomeOrder) {
  int wrong = 0;
  for (std::uint64_t s = 1; s <= 30; ++s) {
    set_seed(s);
    wrong += two_steps(false)[0] != 7.0F ? 1 : 0;
  }
  set_seed(1);
  EXPECT_GE(wrong, 5);
  EXPECT_LT(wrong, 30);
}

TEST(EmulatedRuntime, WorkWaitsUntilSomethingWaitsForIt) {
  set_seed(3);
  const PinnedFloats from, to;
  const OnDevice<float> x(n);
  const TwoStreams streams;
  check(cudaMemcpyAsync(x.data(), from.data, n * sizeof(float), cudaMemcpyHostToDevice, streams.a));
  check(cudaMemcpyAsync(to.data, x.data(), n * sizeof(float), cudaMemcpyDeviceToHost, streams.a));
  std::fill_n(from.data, n, 5.0F);  // too early: the copy has not begun
  EXPECT_EQ(cudaEventQuery(streams.event), cudaSuccess);
  EXPECT_EQ(to.data[0], 1.0F);
  check(cudaEventRecord(streams.event, streams.a));
  check(cudaEventSynchronize(streams.event));
  EXPECT_EQ(to.data[0], 5.0F);
  set_seed(1);
}

// A stream stands still for another's 100 ms, or has 200 of its own meanwhile; here it runs behind the other.
TEST(EmulatedRuntime, EventsTellTimesOfStreamsThatGoOnSideBySide) {
  using std::chrono::milliseconds;
  set_seed(3);
  for (const bool has_work : {false, true}) {
    const TwoStreams streams;
    cudaEvent_t before = nullptr, behind = nullptr;
    for (cudaEvent_t* event : {&before, &behind}) check(cudaEventCreate(event));
    check(cudaLaunchHostFunc(
        streams.b, [](void*) { std::this_thread::sleep_for(milliseconds(100)); }, nullptr));
    check(cudaEventRecord(streams.event, streams.b));
    if (has_work)
      check(cudaLaunchHostFunc(
          streams.a, [](void*) { std::this_thread::sleep_for(milliseconds(200)); }, nullptr));
    check(cudaEventRecord(before, streams.a));
    check(cudaStreamWaitEvent(streams.a, streams.event, 0));
    check(cudaEventRecord(behind, streams.a));
    check(cudaStreamSynchronize(streams.b));
    check(cudaStreamSynchronize(streams.a));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, before, behind));
    EXPECT_EQ(ms > 0, !has_work) << ms;
    for (const cudaEvent_t event : {before, behind}) check(cudaEventDestroy(event));
  }
  set_seed(1);
}

TEST(EmulatedRuntime, AsksAgainAndAgainComeToAnEnd) {
  const OnDevice<float> x(n);
  const TwoStreams streams;
  check(cudaMemsetAsync(x.data(), 0, n * sizeof(float), streams.a));
  check(cudaEventRecord(streams.event, streams.a));
  cudaError_t answer = cudaErrorNotReady;
  while (answer == cudaErrorNotReady) answer = cudaEventQuery(streams.event);
  EXPECT_EQ(answer, cudaSuccess);
  cudaGetLastError();
  EXPECT_EQ(cudaStreamQuery(streams.a), cudaSuccess);
}

TEST(EmulatedRuntime, WhatIsNotReadyIsKeptAsAnError) {
  set_seed(3);
  const OnDevice<float> x(n);
  const TwoStreams streams;
  for (int i = 0; i < 100; ++i) check(cudaMemsetAsync(x.data(), 0, n * sizeof(float), streams.a));
  EXPECT_EQ(cudaStreamQuery(streams.a), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  set_seed(1);
}

TEST(EmulatedRuntime, TheDefaultStreamIsInOrderWithBlockingOnes) {
  for (std::uint64_t s = 1; s <= 12; ++s) {
    set_seed(s);
    const OnDevice<float> x(std::vector<float>(n, 1)), y(n), z(n);
    cudaStream_t blocking = nullptr;
    check(cudaStreamCreate(&blocking));
    samples::affine(on_stream(nullptr), x.data(), y.data(), n);
    samples::affine(on_stream(blocking), y.data(), z.data(), n);
    samples::affine(on_stream(nullptr), z.data(), x.data(), n);
    EXPECT_THAT(x.read(), Each(15.0F));
    check(cudaStreamDestroy(blocking));
  }
  set_seed(1);
}

TEST(EmulatedRuntime, CopiesAndFillsOfRows) {
  const std::vector<float> host{1, 2, 3, 4, 5, 6};
  const OnDevice<float> x(8);
  check(cudaMemset2DAsync(x.data(), 16, 0, 16, 2, nullptr));
  check(cudaMemcpy2DAsync(x.data() + 1, 16, host.data(), 12, 8, 2, cudaMemcpyHostToDevice, nullptr));
  EXPECT_THAT(x.read(), ElementsAre(0, 1, 2, 0, 0, 4, 5, 0));
  EXPECT_EQ(cudaMemcpy2DAsync(x.data(), 4, host.data(), 12, 8, 2, cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidPitchValue);
  EXPECT_EQ(cudaMemcpy(x.data() + 1, host.data(), 32, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x.data(), x.data(), 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(EmulatedRuntime, NewMemoryIsNoNumber) {
  const OnDevice<float> x(n);
  for (const float value : x.read()) ASSERT_TRUE(std::isnan(value));
}

TEST(EmulatedRuntime, MemoryEndsSomewhere) {
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, DeviceMemory::total_bytes + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  std::size_t before = 0, after = 0, total_bytes = 0;
  check(cudaMemGetInfo(&before, &total_bytes));
  check(cudaMalloc(&memory, 100 << 20));
  check(cudaMemGetInfo(&after, &total_bytes));
  EXPECT_EQ(before - after, 100U << 20);
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, static_cast<char*>(memory) + 5));
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  check(cudaFree(memory));
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  cudaGetLastError();
}

// Each with a GPU of its own, as ranks are.
TEST(EmulatedRuntime, ThreadsHaveGpusOfTheirOwn) {
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> results(4);
  for (int r = 0; r < 4; ++r)
    threads.emplace_back([&, r] {
      check(cudaSetDevice(r));
      const OnDevice<float> x(std::vector<float>(n, static_cast<float>(r))), y(n);
      for (int i = 0; i < 10; ++i) {
        samples::affine(on_stream(nullptr), x.data(), y.data(), n);
        check(cudaMemcpyAsync(x.data(), y.data(), n * sizeof(float), cudaMemcpyDeviceToDevice, nullptr));
      }
      results[r] = x.read();
    });
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < 4; ++r) EXPECT_THAT(results[r], Each(static_cast<float>(1024 * r + 1023))) << r;
}

TEST(EmulatedRuntime, FewerGpusCanBeSeen) {
  int count = 0;
  set_num_devices(2);
  check(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  set_num_devices(8);
  cudaGetLastError();
}

TEST(EmulatedRuntime, AStreamOfAnotherGpuIsRefused) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));
  check(cudaSetDevice(1));
  EXPECT_THROW(samples::launch_nothing(on_stream(stream), 1, 32, 0), std::runtime_error);
  check(cudaSetDevice(0));
  check(cudaStreamDestroy(stream));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

TEST(EmulatedRuntimeDeathTest, TheHostMayNotTouchWhatAGpuHas) {
  const OnDevice<float> x(100);
  EXPECT_DEATH(static_cast<volatile float*>(x.data())[3] = 1,
               "cuda emulation: host access to memory of GPU 0, byte 12 of 400 bytes, in ");
}

TEST(EmulatedRuntimeDeathTest, UseAfterFree) {
  const OnDevice<float> x(300), y(300);
  const auto use = [&] {
    float* freed = nullptr;
    check(cudaMalloc(reinterpret_cast<void**>(&freed), 300 * sizeof(float)));
    check(cudaFree(freed));
    samples::affine(on_stream(nullptr), freed, y.data(), 300);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(use(),
               "cuda emulation: affine_kernel, block .[01],0,0., thread .*: an access to memory of GPU 0, byte "
               "[0-9]+ of 1200 bytes that were freed, in affine_kernel \\(sums.cu:[0-9]+\\)");
}

TEST(EmulatedRuntimeDeathTest, BeyondTheEnd) {
  const OnDevice<float> x(std::vector<float>(1024, 1)), y(1024), z(100);
  const auto read_beyond = [&] {
    samples::affine(on_stream(nullptr), x.data() + 1, y.data(), 1024);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(read_beyond(), "affine_kernel.*an access to memory of GPU 0, 0 bytes beyond the end of 4096 bytes");
  const auto write_beyond = [&] {  // by less than a multiple of 256
    samples::affine(on_stream(nullptr), x.data(), z.data(), 101);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(write_beyond(), "something was written 0 bytes beyond the end of 400 bytes of GPU 0, by affine_kernel");
}

TEST(EmulatedRuntimeDeathTest, WhatNeverComesIsNamed) {
  const auto wait = [](bool asks) {
    set_deadline(std::chrono::milliseconds(50));
    check(cudaSetDevice(1));
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    check(cudaStreamCreate(&stream));
    check(cudaEventCreate(&event));
    wait_for_ever(stream);
    check(cudaEventRecord(event, stream));
    while (asks) cudaEventQuery(event);
    check(cudaEventSynchronize(event));
  };
  for (const bool asks : {false, true})
    EXPECT_DEATH(wait(asks), "nothing has gone on for 0.05 s: stream [0-9]+ of GPU 1 at what never comes");
}

// The copies are known to the emulation in every build; kernels tell of their accesses in races_test.cpp.
TEST(EmulatedRuntimeDeathTest, StreamsThatNothingOrdersAreNamedWhateverTheOrder) {
  const OnDevice<float> x(n), y(n);
  const auto copy_and_fill = [&](bool wait) {
    const TwoStreams streams;
    check(cudaMemcpyAsync(y.data(), x.data(), n * sizeof(float), cudaMemcpyDeviceToDevice, streams.a));
    check(cudaEventRecord(streams.event, streams.a));
    if (wait) check(cudaStreamWaitEvent(streams.b, streams.event, 0));
    check(cudaMemsetAsync(x.data() + 100, 0, 4, streams.b));
  };
  for (const std::uint64_t s : {1, 2, 3}) {
    set_seed(s);
    copy_and_fill(/*wait=*/true);
    EXPECT_DEATH(
        copy_and_fill(/*wait=*/false),
        "GPU 0: a (copy|fill) on stream [0-9]+ and a (copy|fill) on stream [0-9]+ touch the memory at 0x.*, and "
        "nothing orders them");
  }
  set_seed(1);
}

TEST(EmulatedRuntime, AHostThatWaitedOrdersStreams) {
  const OnDevice<float> x(n), y(n);
  for (std::uint64_t s = 1; s <= 6; ++s) {
    set_seed(s);
    const TwoStreams streams;
    check(cudaMemcpyAsync(y.data(), x.data(), n * sizeof(float), cudaMemcpyDeviceToDevice, streams.a));
    check(cudaStreamSynchronize(streams.a));
    check(cudaMemsetAsync(x.data(), 0, n, streams.b));
    check(cudaEventRecord(streams.event, streams.b));
    while (cudaEventQuery(streams.event) == cudaErrorNotReady) {
    }
    cudaGetLastError();
    check(cudaMemcpyAsync(x.data(), y.data(), n * sizeof(float), cudaMemcpyDeviceToDevice, streams.a));
  }
  set_seed(1);
}

TEST(EmulatedRuntime, AGraphRunsWhenItIsLaunchedAndReadsWhatIsThereThen) {
  for (const std::uint64_t s : {1, 2, 3}) {
    set_seed(s);
    const TwoStreams streams;
    const OnDevice<float> x(std::vector<float>(n, 1)), y(std::vector<float>(n, 5));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(streams.a, cudaStreamCaptureModeRelaxed));
    samples::affine(on_stream(streams.a), x.data(), y.data(), n);
    check(cudaMemcpyAsync(x.data(), y.data(), n * sizeof(float), cudaMemcpyDeviceToDevice, streams.a));
    check(cudaStreamEndCapture(streams.a, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    check(cudaGraphDestroy(graph));
    check(cudaDeviceSynchronize());
    EXPECT_THAT(y.read(), Each(5.0F)) << "nothing ran";
    check(cudaGraphLaunch(executable, streams.a));
    check(cudaGraphLaunch(executable, streams.a));
    check(cudaDeviceSynchronize());
    EXPECT_THAT(x.read(), Each(7.0F));
    check(cudaMemset(x.data(), 0, n * sizeof(float)));
    check(cudaGraphLaunch(executable, streams.b));
    check(cudaGraphExecDestroy(executable));
    check(cudaDeviceSynchronize());
    EXPECT_THAT(y.read(), Each(1.0F));
  }
  set_seed(1);
}

TEST(EmulatedRuntime, WhatWaitsSpoilsACapture) {
  const TwoStreams streams;
  const OnDevice<float> x(std::vector<float>(n, 1));
  std::vector<float> host(n);
  const std::vector<std::function<cudaError_t()>> waits{
      [&] { return cudaStreamSynchronize(streams.a); },
      [&] { return cudaStreamQuery(streams.a); },
      [&] { return cudaDeviceSynchronize(); },
      [&] { return cudaEventRecord(streams.event, streams.a); },
      [&] { return cudaStreamWaitEvent(streams.a, streams.event, 0); },
      [&] { return cudaMemcpyAsync(host.data(), x.data(), 4, cudaMemcpyDeviceToHost, streams.a); },
      [&] { return cudaMemcpyAsync(x.data(), host.data(), 4, cudaMemcpyHostToDevice, streams.a); }};
  for (const auto& wait : waits) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(streams.a, cudaStreamCaptureModeRelaxed));
    EXPECT_EQ(wait(), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(cudaStreamEndCapture(streams.a, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  }
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed), cudaErrorIllegalState);
  cudaGetLastError();
}

}  // namespace
}  // namespace limbeck::emulation
