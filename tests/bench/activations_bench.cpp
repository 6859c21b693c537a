// Passes over activations in float32 and in bfloat16, as a share of what an update in place moves in caches as well.
//
//     build/release/bin/bench_activations [threads] [--benchmark_filter=REGEX]
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/convert.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "tests/bench/kernel_benchmark.h"

namespace {

using namespace limbeck::kernels;
using limbeck::bench::Ceiling;
using limbeck::bench::Plain;

constexpr std::int64_t rows = 1024, width = 1024, n = rows * width;

template <class T>
std::vector<T> values() {
  std::vector<T> x(n);
  for (std::int64_t i = 0; i < n; ++i) x[i] = as<T>(static_cast<float>(i * 7919 % 1009) / 1009.F - 0.5F);
  return x;
}

/// What the passes read and write.
template <class T>
struct Arrays {
  std::vector<T> a = values<T>(), b = a, c = a, y = a, z = a;
  std::vector<Acc<T>> weight = std::vector<Acc<T>>(width, 1), dweight = weight, inverse_rms = std::vector<Acc<T>>(rows);
};

/// f(i) for all elements.
template <class F>
std::function<void()> loop(F f) {
  return [f] {
    for (std::int64_t i = 0; i < n; ++i) f(i);
    benchmark::ClobberMemory();
  };
}

template <class T>
void run(const Cpu& cpu, const Ceiling& memory) {
  const auto x = std::make_shared<Arrays<T>>();
  const auto *a = x->a.data(), *b = x->b.data(), *c = x->c.data();
  const auto* weight = x->weight.data();
  auto *y = x->y.data(), *z = x->z.data();
  auto* inverse_rms = x->inverse_rms.data();
  const auto pass = [&](const char* what, int arrays, auto f, const std::function<void()>& plain = nullptr) {
    const double bytes = static_cast<double>(arrays * n) * sizeof(T);
    limbeck::bench::add(fmt::format("{} {}", what, sizeof(T) == 2 ? "bfloat16" : "float32"), memory, bytes, f,
                        {.work = plain ? bytes : 0, .f = plain});
  };
  pass(
      "add", 3, [=] { add(cpu, a, b, y, n); },
      loop([=](std::int64_t i) { y[i] = as<T>(as<float>(a[i]) + as<float>(b[i])); }));
  pass(
      "swiglu", 3, [=] { swiglu(cpu, a, b, y, n); }, loop([=](std::int64_t i) {
        y[i] = as<T>(as<float>(a[i]) / (1 + std::exp(-as<float>(a[i]))) * as<float>(b[i]));
      }));
  pass(
      "swiglu gradient", 5, [=] { swiglu_gradient(cpu, a, b, c, y, z, n); }, loop([=](std::int64_t i) {
        const float s = 1 / (1 + std::exp(-as<float>(a[i])));
        y[i] = as<T>(as<float>(c[i]) * as<float>(b[i]) * s * (1 + as<float>(a[i]) * (1 - s)));
        z[i] = as<T>(as<float>(c[i]) * as<float>(a[i]) * s);
      }));
  pass(
      "rms_norm", 2, [=] { rms_norm(cpu, a, weight, y, inverse_rms, rows, width, 1e-5); },
      [=] {
        for (std::int64_t r = 0; r < rows; ++r) {
          float squares = 0;
          for (std::int64_t i = r * width; i < (r + 1) * width; ++i) squares += as<float>(a[i]) * as<float>(a[i]);
          const float scale = 1 / std::sqrt(squares / width + 1e-5F);
          for (std::int64_t i = 0; i < width; ++i)
            y[r * width + i] = as<T>(as<float>(a[r * width + i]) * scale * weight[i]);
        }
        benchmark::ClobberMemory();
      });
  pass("rms_norm input gradient", 3,
       [=] { rms_norm_input_gradient(cpu, a, weight, inverse_rms, b, false, y, rows, width); });
  pass("rms_norm weight gradient", 2,
       [=] { rms_norm_weight_gradient(cpu, a, inverse_rms, b, false, x->dweight.data(), rows, width); });
}

void run_conversions(const Cpu& cpu, const Ceiling& memory) {
  const auto wide_ones = std::make_shared<std::vector<float>>(values<float>());
  const auto narrow_ones = std::make_shared<std::vector<bf16>>(n);
  auto* x = wide_ones->data();
  auto* y = narrow_ones->data();
  limbeck::bench::add("convert to bfloat16", memory, 6.0 * n, [=, keep = wide_ones] { convert(cpu, x, y, n); },
                      {.work = 6.0 * n, .f = loop([=](std::int64_t i) { y[i] = as<bf16>(x[i]); })});
  limbeck::bench::add("convert to float32", memory, 6.0 * n, [=, keep = narrow_ones] { convert(cpu, y, x, n); },
                      {.work = 6.0 * n, .f = loop([=](std::int64_t i) { x[i] = as<float>(y[i]); })});
}

}  // namespace

int main(int argc, char** argv) {
  return limbeck::bench::run(argc, argv, [](int threads) {
    const Cpu cpu = make_cpu(threads);
    const Ceiling memory = limbeck::bench::update_rate(threads, n);
    run<float>(cpu, memory);
    run<bf16>(cpu, memory);
    run_conversions(cpu, memory);
  });
}
