// The memory bandwidth that passes over more than the caches hold are measured against.
//
//     build/release/bin/bench_bandwidth [threads]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#include "core/tensor.h"
#include "tests/bench/timing.h"

namespace {

constexpr std::int64_t n = std::int64_t{1} << 27;  // 512 MiB an array of float

/// f(begin, end) on each thread's part of [0, n).
template <class F>
void on_threads(int threads, F f) {
  std::vector<std::jthread> others;
  for (std::int64_t i = 1; i < threads; ++i) others.emplace_back(f, n * i / threads, n * (i + 1) / threads);
  f(std::int64_t{0}, n / threads);
}

void report(const char* what, int arrays, double time) {
  std::printf("%-20s %6.1f GB/s\n", what, 4.0 * arrays * static_cast<double>(n) / time / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  using limbeck::bench::seconds;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  // In huge pages, as all tensors are.
  const auto memory = limbeck::core::Memory::cpu(threads);
  const auto array = [&](float value) {
    auto tensor = limbeck::core::Tensor::empty(memory, limbeck::core::DType::F32, {n});
    std::fill_n(tensor.mutable_data<float>(), n, value);
    return tensor;
  };
  limbeck::core::Tensor a = array(1), b = array(2), c = array(3);
  std::printf("%d threads, 512 MiB an array; that a write reads what it replaces is not counted\n", threads);
  const auto run = [&](const char* what, int arrays, auto f) {
    report(what, arrays, seconds([&] { on_threads(threads, f); }));
  };
  volatile std::uint64_t keep = 0;
  run("read", 1,
      [&, x = reinterpret_cast<const std::uint64_t*>(a.data<float>())](std::int64_t begin, std::int64_t end) {
        keep = std::accumulate(x + begin / 2, x + end / 2, std::uint64_t{0});
      });
  run("triad: a = b + 3 c", 3,
      [x = a.mutable_data<float>(), y = b.data<float>(), z = c.data<float>()](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) x[i] = y[i] + 3 * z[i];
      });
  run("update: a += 3 b", 3, [x = a.mutable_data<float>(), y = b.data<float>()](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) x[i] += 3 * y[i];
  });
}
