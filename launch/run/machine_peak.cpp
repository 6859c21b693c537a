#include "launch/run/machine_peak.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/start_thread.h"
#include "kernels/peak.h"

namespace limbeck::launch {

namespace {

using Clock = std::chrono::steady_clock;

/// A loop of a number of iterations, and the floating-point operations in it.
struct Loop {
  float (*run)(const kernels::Cpu& cpu, std::int64_t iterations);
  double (*flops)(std::int64_t iterations);
};

double seconds_of(const Loop& loop, std::int64_t iterations, const kernels::Cpu& cpu) {
  const auto start = Clock::now();
  const float sum = loop.run(cpu, iterations);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  core::check(std::isfinite(sum), "machine_peak: the loop gave {}, expected a finite number", sum);
  return std::max(seconds, 1e-9);
}

/// The best rate of one thread in runs of about 10 ms.
double thread_peak(const Loop& loop) {
  const kernels::Cpu cpu = kernels::make_cpu(1);
  std::int64_t iterations = 1000;
  double seconds = seconds_of(loop, iterations, cpu);
  while (seconds < 0.01) {
    iterations *= 2;
    seconds = seconds_of(loop, iterations, cpu);
  }
  for (int run = 0; run < 7; ++run) seconds = std::min(seconds, seconds_of(loop, iterations, cpu));
  return loop.flops(iterations) / seconds;
}

}  // namespace

double measure_peak_flops(int threads, core::DType compute) {
  const Loop loop = compute == core::DType::BF16 ? Loop{kernels::bf16_loop, kernels::bf16_loop_flops}
                                                 : Loop{kernels::fma_loop, kernels::fma_loop_flops};
  std::vector<std::jthread> others;
  std::vector<std::future<double>> rates;
  for (int i = 1; i < threads; ++i) {
    std::packaged_task<double()> measure([loop] { return thread_peak(loop); });
    rates.push_back(measure.get_future());
    others.push_back(core::start_thread("measuring the peak", std::move(measure)));
  }
  double sum = thread_peak(loop);
  for (auto& rate : rates) sum += rate.get();
  return sum;
}

std::int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::int64_t kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace limbeck::launch
