// How long a stream stands still for another, by the clock of the emulation's GPUs.
#include "kernels/cuda/timed_waits.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "kernels/cuda/cuda_state.h"
#include "tests/cuda_emulation/emulation.h"

namespace limbeck::kernels {
namespace {

using namespace std::chrono_literals;

class TimedWaitsTest : public ::testing::Test {
 protected:
  static constexpr std::chrono::nanoseconds piece = 50ms;  // of work

  void SetUp() override {
    emulation::set_seed(3);  // nothing runs before it is waited for
    for (cudaStream_t* stream : {&stream_, &other_})
      check_cuda(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&done_, &behind_}) check_cuda(cudaEventCreate(event));
  }
  void TearDown() override {
    for (const cudaEvent_t event : {done_, behind_}) cudaEventDestroy(event);
    for (const cudaStream_t stream : {stream_, other_}) cudaStreamDestroy(stream);
    emulation::set_seed(1);
  }

  /// The other stream gets so many pieces of work, and this one a wait for each.
  void queue(TimedWaits& waits, int count, std::size_t cause) {
    for (int i = 0; i < count; ++i) {
      check_cuda(cudaLaunchHostFunc(
          other_, [](void*) { std::this_thread::sleep_for(piece); }, nullptr));
      check_cuda(cudaEventRecord(done_, other_));
      waits.wait_for(done_, cause);
    }
  }
  /// The stream has come to its end, which is behind all of the other's work.
  void finish() {
    check_cuda(cudaEventRecord(behind_, stream_));
    check_cuda(cudaStreamSynchronize(stream_));
    check_cuda(cudaStreamSynchronize(other_));
    float ms = -1;
    check_cuda(cudaEventElapsedTime(&ms, done_, behind_));
    EXPECT_GE(ms, 0);
  }

  cudaStream_t stream_ = nullptr, other_ = nullptr;
  cudaEvent_t done_ = nullptr, behind_ = nullptr;
};

// A piece may begin before the wait for it is queued: not all of it is waited for.
TEST_F(TimedWaitsTest, AreSummedByCauseOnceTheStreamIsPastThem) {
  TimedWaits waits(stream_, 3);
  queue(waits, 2, 1);
  queue(waits, 1, 2);
  EXPECT_EQ(waits.take(0), 0ns);
  finish();
  EXPECT_GE(waits.take(1), piece / 2);
  EXPECT_GE(waits.take(2), piece / 2);
  for (const std::size_t cause : {0, 1, 2}) EXPECT_EQ(waits.take(cause), 0ns);
}

TEST_F(TimedWaitsTest, ThatAreMoreThanMayBeTimedAreMade) {
  TimedWaits waits(stream_, 1, /*most=*/2);
  for (int turn = 0; turn < 2; ++turn) {
    queue(waits, 4, 0);
    finish();
    EXPECT_GE(waits.take(0), piece / 2);
    EXPECT_EQ(waits.take(0), 0ns);
  }
}

}  // namespace
}  // namespace limbeck::kernels
