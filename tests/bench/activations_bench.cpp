// Passes over activations in float32 and in bfloat16: microseconds and bytes moved a second.
//
//     build/release/bin/bench_activations [threads]
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/convert.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "tests/bench/timing.h"

namespace {

using namespace limbeck::kernels;
using limbeck::bench::seconds;

constexpr std::int64_t rows = 1024, width = 1024, n = rows * width;

template <class T>
std::vector<T> values() {
  std::vector<T> x(n);
  for (std::int64_t i = 0; i < n; ++i) x[i] = as<T>(static_cast<float>(i * 7919 % 1009) / 1009.F - 0.5F);
  return x;
}

/// `arrays` of T are read or written.
template <class T, class F>
void report(const char* what, int arrays, F&& f) {
  const double time = seconds(f);
  std::printf("%-24s %-8s %8.1f us  %6.1f GB/s\n", what, sizeof(T) == 2 ? "bfloat16" : "float32", time * 1e6,
              static_cast<double>(arrays * n) * sizeof(T) / time / 1e9);
}

template <class T>
void run(const Cpu& cpu) {
  const std::vector<T> a = values<T>(), b = a, c = a;
  const std::vector<Acc<T>> weight(width, 1);
  std::vector<T> y(n), z(n);
  std::vector<Acc<T>> inverse_rms(rows), dweight(width);
  report<T>("add", 3, [&] { add(cpu, a.data(), b.data(), y.data(), n); });
  report<T>("swiglu", 3, [&] { swiglu(cpu, a.data(), b.data(), y.data(), n); });
  report<T>("swiglu gradient", 5, [&] { swiglu_gradient(cpu, a.data(), b.data(), c.data(), y.data(), z.data(), n); });
  report<T>("rms_norm", 2,
            [&] { rms_norm(cpu, a.data(), weight.data(), y.data(), inverse_rms.data(), rows, width, 1e-5); });
  report<T>("rms_norm input gradient", 3, [&] {
    rms_norm_input_gradient(cpu, a.data(), weight.data(), inverse_rms.data(), b.data(), false, y.data(), rows, width);
  });
  report<T>("rms_norm weight gradient", 2, [&] {
    rms_norm_weight_gradient(cpu, a.data(), inverse_rms.data(), b.data(), false, dweight.data(), rows, width);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const Cpu cpu = make_cpu(argc > 1 ? std::atoi(argv[1]) : 1);
  run<float>(cpu);
  run<bf16>(cpu);
  const std::vector<float> x = values<float>();
  std::vector<bf16> y(n);
  std::vector<float> z(n);
  const auto rate = [](double time) { return n * 6. / time / 1e9; };
  const double narrow = seconds([&] { convert(cpu, x.data(), y.data(), n); });
  const double wide = seconds([&] { convert(cpu, y.data(), z.data(), n); });
  std::printf("convert to bfloat16   %8.1f us  %6.1f GB/s; to float32 %8.1f us  %6.1f GB/s\n", narrow * 1e6,
              rate(narrow), wide * 1e6, rate(wide));
}
