// How long a stream stood still for others: a pair of timed events around each of its waits, read once the stream is
// past them, so that nobody waits to know.
//
//     TimedWaits waits(cuda.state->stream, /*num_causes=*/2);
//     waits.wait_for(gathered, /*cause=*/1);              // what is queued from now on begins behind `gathered`
//     ... the host reads what was made of it ...
//     const std::chrono::nanoseconds idle = waits.take(1);
//
// A wait for what is done already has what the GPU takes from one event to the next.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstddef>
#include <mutex>
#include <vector>

namespace limbeck::kernels {

/// From any thread that uses the stream's GPU.
class TimedWaits {
 public:
  /// As many pairs of events are made as there are waits between two takes, and no more than `most`: of waits that come
  /// then those are timed for which the stream has got past older ones.
  TimedWaits(cudaStream_t stream, std::size_t num_causes, std::size_t most = 4096);
  ~TimedWaits();
  TimedWaits(const TimedWaits&) = delete;
  TimedWaits& operator=(const TimedWaits&) = delete;

  /// The stream's, not the host's.
  void wait_for(cudaEvent_t event, std::size_t cause);
  /// For that cause, of the waits that the stream is past by now and that no call before had.
  std::chrono::nanoseconds take(std::size_t cause);

 private:
  struct Wait {
    cudaEvent_t before = nullptr, behind = nullptr;
    std::size_t cause = 0;
  };
  Wait* next();  // null: there are as many ahead of the stream as may be
  void read();

  std::mutex mutex_;
  cudaStream_t stream_;
  std::size_t most_;
  std::vector<Wait> ring_;
  std::size_t first_ = 0, num_ahead_ = 0;       // those that are not read yet, in the stream's order
  std::vector<std::chrono::nanoseconds> past_;  // by cause
};

}  // namespace limbeck::kernels
