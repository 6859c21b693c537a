#include "kernels/norm.h"

#include <algorithm>
#include <array>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t lanes = 32;       // independent sums: enough to fill the vector units' pipelines
constexpr std::int64_t max_parts = 64;   // parts that threads share; a fixed number, so that the order is fixed
constexpr std::int64_t grain = 1 << 15;  // elements worth a part or a thread

template <class T>
double part_sum(const T* x, std::int64_t n) {
  std::array<double, lanes> sums{};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
#pragma omp simd
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const auto value = static_cast<double>(x[i + lane]);
      sums[static_cast<std::size_t>(lane)] += value * value;
    }
  }
  double rest = 0;
  for (; i < n; ++i) rest += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (const double s : sums) rest += s;
  return rest;
}
}  // namespace

template <class T>
void sum_of_squares(const Cpu& cpu, const T* x, std::int64_t n, double* sum) {
  const std::int64_t parts = std::clamp<std::int64_t>(n / grain, 1, max_parts);
  std::array<double, max_parts> sums{};
  parallel_for(cpu, parts, 1, [&, x](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) {
      const std::int64_t first = n * part / parts;
      sums[static_cast<std::size_t>(part)] = part_sum(x + first, n * (part + 1) / parts - first);
    }
  });
  double total = 0;
  for (std::int64_t part = 0; part < parts; ++part) total += sums[static_cast<std::size_t>(part)];
  *sum = total;
}

template void sum_of_squares(const Cpu&, const float*, std::int64_t, double*);
template void sum_of_squares(const Cpu&, const double*, std::int64_t, double*);

}  // namespace limbeck::kernels
