#include "tests/gpu/bench/measured.h"

#include <algorithm>

#include "kernels/copy.h"
#include "kernels/cuda/cuda_state.h"
#include "kernels/matmul.h"

namespace limbeck::bench {
namespace {

using kernels::check_cuda;

/// A place in a stream, with its time.
class TimedEvent {
 public:
  TimedEvent() { check_cuda(cudaEventCreate(&event_)); }
  ~TimedEvent() { cudaEventDestroy(event_); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  operator cudaEvent_t() const { return event_; }  // NOLINT(google-explicit-constructor)

 private:
  cudaEvent_t event_ = nullptr;
};

float median(std::vector<float> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace

Stopwatch::Stopwatch(core::MemoryPtr memory, Sizes sizes)
    : memory_(std::move(memory)),
      sizes_(sizes),
      flushed_(core::Tensor::zeros(memory_, core::DType::U8, {sizes == Sizes::Tiny ? 64 : std::int64_t{1} << 28})) {}

/// The median of `runs`.
float Stopwatch::milliseconds(const Work& work, int runs) const {
  const kernels::Cuda& cuda = std::get<kernels::Cuda>(memory_->device());
  std::vector<TimedEvent> begin(static_cast<std::size_t>(runs)), end(static_cast<std::size_t>(runs));
  core::Tensor flushed = flushed_;
  for (std::size_t i = 0; i < begin.size(); ++i) {
    flushed.fill_zero();
    check_cuda(cudaEventRecord(begin[i], cuda.state->stream));
    work();
    check_cuda(cudaEventRecord(end[i], cuda.state->stream));
  }
  check_cuda(cudaStreamSynchronize(cuda.state->stream));
  std::vector<float> times(begin.size());
  for (std::size_t i = 0; i < begin.size(); ++i) check_cuda(cudaEventElapsedTime(&times[i], begin[i], end[i]));
  return median(std::move(times));
}

double Stopwatch::seconds(const Work& work) const {
  if (sizes_ == Sizes::Tiny) return milliseconds(work, 2) / 1e3;
  milliseconds(work, 1);  // libraries choose their kernels
  const double about = milliseconds(work, 1);
  return milliseconds(work, static_cast<int>(std::clamp(100 / std::max(about, 1e-3), 5.0, 100.0))) / 1e3;
}

std::int64_t Stopwatch::working_bytes(const Work& work) const {
  memory_->reset_peak();
  work();
  const core::MemoryStatistics bytes = memory_->statistics();
  return bytes.peak_bytes - bytes.used_bytes;
}

double copy_rate(const core::MemoryPtr& memory, const Stopwatch& stopwatch, Sizes sizes) {
  const std::int64_t n = sizes == Sizes::Tiny ? 1 << 12 : std::int64_t{1} << 30;
  Buffers b(memory);
  auto *from = b.zeros<std::uint8_t>(n), *to = b.zeros<std::uint8_t>(n);
  return 2 * static_cast<double>(n) / stopwatch.seconds([=] { kernels::copy_bytes(b.cuda(), from, to, n); });
}

double product_rate(const core::MemoryPtr& memory, const Stopwatch& stopwatch, Sizes sizes) {
  const std::int64_t n = sizes == Sizes::Tiny ? 64 : 8192;
  Buffers b(memory);
  auto *x = b.numbers<kernels::bf16>(n * n), *y = b.numbers<kernels::bf16>(n * n), *z = b.zeros<kernels::bf16>(n * n);
  const auto product = [=] {
    kernels::matmul(b.cuda(), kernels::Transpose::No, kernels::Transpose::Yes, n, n, n, x, y, 0.F, z);
  };
  return 2 * static_cast<double>(n * n * n) / stopwatch.seconds(product);
}

}  // namespace limbeck::bench
