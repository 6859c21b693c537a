#include "launch/run/machine_peak.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <future>
#include <string>
#include <variant>
#include <vector>

#include "core/error.h"
#include "core/start_thread.h"
#include "core/tensor.h"
#include "kernels/matmul.h"
#include "kernels/peak.h"
#include "launch/run/clock.h"

namespace limbeck::launch {

namespace {

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

/// Seconds of a product of n x n matrices, of eight one behind the other.
template <class T>
double seconds_of_product(const core::MemoryPtr& memory, std::int64_t n) {
  constexpr int times = 8;
  const core::Shape shape{n, n};
  std::vector<float> row(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(i * 7919 % 1013) / 512 - 1;
  const core::Tensor a = core::Tensor::from<float>(memory, shape, row).to(core::dtype_of<T>());
  core::Tensor c = core::Tensor::empty(memory, core::dtype_of<T>(), shape);
  const auto run = [&] {
    core::on_device(c, [&](const auto& device) {
      kernels::matmul(device, kernels::Transpose::No, kernels::Transpose::Yes, n, n, n, a.data<T>(), a.data<T>(),
                      kernels::Acc<T>{0}, c.mutable_data<T>());
    });
  };
  const auto wait = [&] { return core::HostCopy(c.rows(0, 1)).get<T>().size(); };
  run();
  wait();
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) run();
  wait();
  return std::max(std::chrono::duration<double>(Clock::now() - start).count() / times, 1e-9);
}

/// The rate of products that take long enough to be timed.
template <class T>
double product_peak(const core::MemoryPtr& memory) {
  std::int64_t n = 256;
  double seconds = seconds_of_product<T>(memory, n);
  while (seconds < 1e-3 && n < 8192) {
    n *= 2;
    seconds = seconds_of_product<T>(memory, n);
  }
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds;
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

double measure_peak_flops(const core::MemoryPtr& memory, int threads, core::DType compute) {
  if (std::holds_alternative<kernels::Cpu>(memory->device())) return measure_peak_flops(threads, compute);
  return compute == core::DType::BF16 ? product_peak<kernels::bf16>(memory) : product_peak<float>(memory);
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
