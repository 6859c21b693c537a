// Work divided over the device's threads. What one throws is thrown here, when all are done: an exception must not
// leave an OpenMP region.
//
//     parallel_for(cpu, n, grain, [=](begin, end) { ... });      // even work
//     for_each_task(cpu, n, [=](i) { ... });                     // uneven work
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#include "kernels/cpu.h"

namespace limbeck::kernels {

/// The first exception that any of several threads met.
class ThreadErrors {
 public:
  template <class F>
  void run(F&& f) {
    try {
      f();
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      if (!first_) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

/// Splits [0, n) over the threads in contiguous parts: f(begin, end). The split depends on n and the number of threads
/// alone, so results repeat bit by bit. `grain`: fewest items that are worth a thread.
template <class F>
void parallel_for(const Cpu& cpu, std::int64_t n, std::int64_t grain, F&& f) {
  const std::int64_t parts = std::clamp<std::int64_t>(n / std::max<std::int64_t>(grain, 1), 1, cpu.threads);
  if (parts == 1) {
    if (n > 0) f(std::int64_t{0}, n);
    return;
  }
  ThreadErrors errors;
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
  for (std::int64_t part = 0; part < parts; ++part) errors.run([&] { f(n * part / parts, n * (part + 1) / parts); });
  errors.rethrow();
}

/// f(i, scratch) for i in [0, n), begun in this order, each as soon as a thread is free; so what f writes must not
/// depend on which thread it runs on. A task may wait for one before it. `scratch` is the thread's own, made by
/// make_scratch().
template <class Make, class F>
void for_each_task(const Cpu& cpu, std::int64_t n, Make&& make_scratch, F&& f) {
  const std::int64_t threads = std::min<std::int64_t>(n, cpu.threads);
  if (threads <= 1) {
    auto scratch = make_scratch();
    for (std::int64_t i = 0; i < n; ++i) f(i, scratch);
    return;
  }
  ThreadErrors errors;
  std::atomic<std::int64_t> next = 0;
#pragma omp parallel num_threads(static_cast <int>(threads))
  errors.run([&] {
    auto scratch = make_scratch();
    for (std::int64_t i = next++; i < n; i = next++) errors.run([&] { f(i, scratch); });
  });
  errors.rethrow();
}

/// The same of f(i).
template <class F>
void for_each_task(const Cpu& cpu, std::int64_t n, F&& f) {
  for_each_task(
      cpu, n, [] { return 0; }, [&](std::int64_t i, int) { f(i); });
}

}  // namespace limbeck::kernels
