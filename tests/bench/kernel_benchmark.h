// Kernels as Google Benchmark's programs: a line for each has the time of a call, GFLOP/s or GB/s, the share of a
// ceiling that was measured in the same run, and how many times as fast it is as plain loops.
//
//     int main(int argc, char** argv) {
//       return bench::run(argc, argv, [](int threads) {
//         const bench::Ceiling peak = bench::fma_peak(threads);
//         bench::add("matmul", peak, 2.0 * m * n * k, [=]() mutable { kernels::matmul(...); },
//                    {.work = 2.0 * 8 * n * k, .f = [=] { ... }});
//       });
//     }
//
//     build/release/bin/bench_NAME [threads] [--benchmark_filter=REGEX]
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/peak.h"
#include "tests/bench/timing.h"

namespace limbeck::bench {

/// A rate to compare with, in FLOP or bytes a second, and what it is.
struct Ceiling {
  const char* unit;  // "GFLOP" or "GB": Google Benchmark adds "/s"
  double rate;
};

/// Plain loops that do the same, or a part of it: one thread, nothing but what the compiler makes of them.
struct Plain {
  double work = 0;  // FLOP or bytes of a call; 0: there are none
  std::function<void()> f = nullptr;
};

/// Adds the benchmark `name` of f, which has `work` FLOP or bytes. What f and plain.f use has to outlive this call.
template <class F>
void add(const std::string& name, const Ceiling& ceiling, double work, F f, Plain plain = {}) {
  double plain_rate = 0;
  const auto measure = [=](benchmark::State& state) mutable {
    using Clock = std::chrono::steady_clock;
    if (plain.work > 0 && plain_rate == 0) plain_rate = plain.work / seconds(plain.f, 3, 0);
    const auto start = Clock::now();
    for (auto _ : state) f();
    const double time = std::chrono::duration<double>(Clock::now() - start).count();
    const double rate = work * static_cast<double>(state.iterations()) / time;
    state.counters[ceiling.unit] = benchmark::Counter(work / 1e9, benchmark::Counter::kIsIterationInvariantRate);
    state.counters["%ceiling"] = 100 * rate / ceiling.rate;
    if (plain_rate > 0) state.counters["xplain"] = rate / plain_rate;
  };
  benchmark::RegisterBenchmark(name.c_str(), measure)->UseRealTime()->Unit(benchmark::kMicrosecond);
}

/// Multiply-adds of float32 in registers.
inline Ceiling fma_peak(int threads) {
  constexpr std::int64_t rounds = 1'000'000;
  const kernels::Cpu cpu = kernels::make_cpu(1);
  volatile float keep = 0;
  const double time = seconds([&] { keep = kernels::fma_loop(cpu, rounds); });
  const Ceiling ceiling{"GFLOP", threads * kernels::fma_loop_flops(rounds) / time};
  std::printf("ceiling: float32 multiply-adds of %d threads, %.1f GFLOP/s\n", threads, ceiling.rate / 1e9);
  return ceiling;
}

/// f(begin, end) on each thread's part of [0, n).
template <class F>
void on_threads(int threads, std::int64_t n, const F& f) {
  std::vector<std::jthread> others;
  for (std::int64_t i = 1; i < threads; ++i) others.emplace_back(std::ref(f), n * i / threads, n * (i + 1) / threads);
  f(std::int64_t{0}, n / threads);
}

/// Arrays of `count` float32 added to in place (a += 3 b: read, read, write), often enough at once that threads' starts
/// do not count.
inline Ceiling update_rate(int threads, std::int64_t count) {
  std::vector<float> a(static_cast<std::size_t>(count), 1.F), b = a;
  const std::int64_t passes = 1 + (std::int64_t{1} << 25) / count;
  const double time = seconds(
      [&] {
        on_threads(threads, count, [&, x = a.data(), y = b.data()](std::int64_t begin, std::int64_t end) {
          for (std::int64_t pass = 0; pass < passes; ++pass) {
            for (std::int64_t i = begin; i < end; ++i) x[i] += 3 * y[i];
            benchmark::ClobberMemory();
          }
        });
      },
      5, 0);
  const Ceiling ceiling{"GB", 12.0 * static_cast<double>(passes * count) / time};
  std::printf("ceiling: a += 3 b of %d threads on %lld KiB an array, %.1f GB/s\n", threads,
              static_cast<long long>(count / 256), ceiling.rate / 1e9);
  return ceiling;
}

/// The program: `add_all(threads)` adds the benchmarks. Returns its exit status.
template <class F>
int run(int argc, char** argv, const F& add_all) {
  benchmark::Initialize(&argc, argv);
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  if (argc > 2 || threads < 1) {
    std::fprintf(stderr, "usage: %s [threads] [--benchmark_filter=REGEX]\n", argv[0]);
    return 2;
  }
  add_all(threads);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace limbeck::bench
