#include "kernels/sums.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t lanes = 32;       // independent sums: enough to fill the vector units' pipelines
constexpr std::int64_t max_parts = 64;   // parts that threads share; a fixed number, so that the order is fixed
constexpr std::int64_t grain = 1 << 15;  // elements worth a part or a thread

/// The sum of term(i) for begin <= i < end, in double.
template <class F>
double part_sum(std::int64_t begin, std::int64_t end, F&& term) {
  std::array<double, lanes> sums{};
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
#pragma omp simd
    for (std::int64_t lane = 0; lane < lanes; ++lane) sums[static_cast<std::size_t>(lane)] += term(i + lane);
  }
  double rest = 0;
  for (; i < end; ++i) rest += term(i);
  for (const double s : sums) rest += s;
  return rest;
}

template <class F>
double ordered_sum(const Cpu& cpu, std::int64_t n, F&& term) {
  const std::int64_t parts = std::clamp<std::int64_t>(n / grain, 1, max_parts);
  std::array<double, max_parts> sums{};
  parallel_for(cpu, parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part)
      sums[static_cast<std::size_t>(part)] = part_sum(n * part / parts, n * (part + 1) / parts, term);
  });
  double total = 0;
  for (std::int64_t part = 0; part < parts; ++part) total += sums[static_cast<std::size_t>(part)];
  return total;
}
}  // namespace

template <class D, class T>
void sum(const D& cpu, const T* x, std::int64_t n, double* sum) {
  *sum = ordered_sum(cpu, n, [x](std::int64_t i) { return as<double>(x[i]); });
}

template <class D, class T>
void sum_of_squares(const D& cpu, const T* x, std::int64_t n, double* sum) {
  *sum = ordered_sum(cpu, n, [x](std::int64_t i) {
    const auto value = as<double>(x[i]);
    return value * value;
  });
}

template <class D, class T>
void sum_of_squared_differences(const D& cpu, const T* x, const T* y, std::int64_t n, double* sum) {
  *sum = ordered_sum(cpu, n, [x, y](std::int64_t i) {
    const double difference = as<double>(x[i]) - as<double>(y[i]);
    return difference * difference;
  });
}

template <class D>
void clip_factor(const D&, const double* squares, std::int64_t n, double clip, double* factor) {
  const double norm = std::sqrt(std::accumulate(squares, squares + n, 0.0));
  *factor = !std::isfinite(norm) ? std::numeric_limits<double>::quiet_NaN() : clip > 0 && norm > clip ? clip / norm : 1;
}

template <class D>
void add_counts(const D&, const std::int64_t* counts, double* sums, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(counts[i]);
}

#define LIMBECK_INSTANTIATE(T)                                               \
  template void sum(const Cpu&, const T*, std::int64_t, double*);            \
  template void sum_of_squares(const Cpu&, const T*, std::int64_t, double*); \
  template void sum_of_squared_differences(const Cpu&, const T*, const T*, std::int64_t, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)
template void clip_factor(const Cpu&, const double*, std::int64_t, double, double*);
template void add_counts(const Cpu&, const std::int64_t*, double*, std::int64_t);

}  // namespace limbeck::kernels
