// The memory bandwidth that passes over more than the caches hold are measured against; reads are the ceiling of all.
//
//     build/release/bin/bench_bandwidth [threads] [--benchmark_filter=REGEX]
#include <algorithm>
#include <numeric>

#include "core/tensor.h"
#include "tests/bench/kernel_benchmark.h"

namespace {

using namespace limbeck;
using core::Tensor;

constexpr std::int64_t n = std::int64_t{1} << 27;  // 512 MiB an array of float

void add_all(int threads) {
  // In huge pages, as all tensors are.
  const auto memory = core::Memory::cpu(threads);
  const auto array = [&](float value) {
    auto tensor = Tensor::empty(memory, core::DType::F32, {n});
    std::fill_n(tensor.mutable_data<float>(), n, value);
    return tensor;
  };
  Tensor a = array(1), b = array(2), c = array(3);
  const auto read = [words = reinterpret_cast<const std::uint64_t*>(a.data<float>())](std::int64_t begin,
                                                                                      std::int64_t end) {
    benchmark::DoNotOptimize(std::accumulate(words + begin / 2, words + end / 2, std::uint64_t{0}));
  };
  const bench::Ceiling ceiling{"GB", 4.0 * n / bench::seconds([&] { bench::on_threads(threads, n, read); })};
  std::printf(
      "ceiling: read, %.1f GB/s\n%d threads, 512 MiB an array; that a write reads what it replaces is not counted\n",
      ceiling.rate / 1e9, threads);
  // `arrays` are read or written; beside it, the same loop on one thread.
  const auto run = [&](const char* what, int arrays, auto f) {
    const double bytes = 4.0 * arrays * static_cast<double>(n);
    bench::add(what, ceiling, bytes,
               [=, hold = Tensor(a), and_hold = Tensor(b), too = Tensor(c)] { bench::on_threads(threads, n, f); },
               {.work = bytes, .f = [=] { f(0, n); }});
  };
  run("read", 1, read);
  run("triad: a = b + 3 c", 3,
      [x = a.mutable_data<float>(), y = b.data<float>(), z = c.data<float>()](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) x[i] = y[i] + 3 * z[i];
      });
  run("update: a += 3 b", 3, [x = a.mutable_data<float>(), y = b.data<float>()](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) x[i] += 3 * y[i];
  });
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_all); }
