#include "kernels/cuda/timed_waits.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {

using std::chrono::duration;
using std::chrono::duration_cast;
using std::chrono::nanoseconds;

TimedWaits::TimedWaits(cudaStream_t stream, std::size_t num_causes, std::size_t most)
    : stream_(stream), most_(most), past_(num_causes) {}

TimedWaits::~TimedWaits() {
  for (const Wait& wait : ring_) {
    if (wait.before != nullptr) cudaEventDestroy(wait.before);
    if (wait.behind != nullptr) cudaEventDestroy(wait.behind);
  }
}

void TimedWaits::wait_for(cudaEvent_t event, std::size_t cause) {
  const std::scoped_lock lock(mutex_);
  Wait* timed = next();
  if (timed != nullptr) check_cuda(cudaEventRecord(timed->before, stream_));
  check_cuda(cudaStreamWaitEvent(stream_, event, 0));
  if (timed == nullptr) return;
  check_cuda(cudaEventRecord(timed->behind, stream_));
  timed->cause = cause;
  ++num_ahead_;
}

nanoseconds TimedWaits::take(std::size_t cause) {
  const std::scoped_lock lock(mutex_);
  read();
  return std::exchange(past_.at(cause), nanoseconds(0));
}

TimedWaits::Wait* TimedWaits::next() {
  if (num_ahead_ == most_) read();
  if (num_ahead_ == most_) return nullptr;
  if (num_ahead_ == ring_.size()) {
    std::rotate(ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(first_), ring_.end());
    first_ = 0;
    Wait& made = ring_.emplace_back();
    check_cuda(cudaEventCreate(&made.before));
    check_cuda(cudaEventCreate(&made.behind));
  }
  return &ring_[(first_ + num_ahead_) % ring_.size()];
}

void TimedWaits::read() {
  while (num_ahead_ > 0 && is_done(ring_[first_].behind)) {
    const Wait& wait = ring_[first_];
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, wait.before, wait.behind));
    past_.at(wait.cause) += duration_cast<nanoseconds>(duration<float, std::milli>(ms));
    first_ = (first_ + 1) % ring_.size();
    --num_ahead_;
  }
}

}  // namespace limbeck::kernels
