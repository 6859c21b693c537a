#include "kernels/draw_tokens.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "kernels/cpu/larger.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace {

// Sorting a vocabulary takes longer than a small model to run. So its tokens are parted by how far they are below the
// likeliest, and the part in which the sum passes the chance is sorted alone.
constexpr std::int64_t num_parts = 256;
constexpr int parts_of_e = 8;  // tokens of a part differ in their probability by less than a factor e^(1/8)
constexpr std::int64_t at_once = 1024;

/// Infinity where some are not finite, or all are -infinity.
template <class T>
T greatest_of(const T* row, std::int64_t count) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  T greatest = -infinity;
  bool is_odd = false;
#pragma omp simd reduction(max : greatest) reduction(|| : is_odd)
  for (std::int64_t i = 0; i < count; ++i) {
    greatest = larger(greatest, row[i]);
    is_odd = is_odd || !(row[i] < infinity);
  }
  return is_odd || greatest == -infinity ? infinity : greatest;
}

/// One row. The scratch is of `count`.
template <class T>
std::int64_t draw(const T* row, std::int64_t count, double temperature, double chance, std::uint8_t* part_of,
                  std::vector<std::int64_t>& candidates) {
  const T greatest = greatest_of(row, count);
  if (greatest == std::numeric_limits<T>::infinity()) return -1;
  if (temperature <= 0) return std::find(row, row + count, greatest) - row;
  const T per_temperature = static_cast<T>(1 / temperature);
  const auto below = [=](std::int64_t i) { return (greatest - row[i]) * per_temperature; };
  std::array<double, num_parts> sums = {};
  for (std::int64_t first = 0; first < count; first += at_once) {
    const std::int64_t n = std::min(at_once, count - first);
    T weights[at_once];
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      weights[i] = exponential(-below(first + i));
      part_of[first + i] = static_cast<std::uint8_t>(
          static_cast<std::int32_t>(smaller(below(first + i) * parts_of_e, static_cast<T>(num_parts - 1))));
    }
    for (std::int64_t i = 0; i < n; ++i) sums[part_of[first + i]] += static_cast<double>(weights[i]);
  }
  double left = 0;
  for (const double sum : sums) left += sum;
  left *= chance;
  std::size_t part = 0;
  for (std::size_t next = 0; next < sums.size(); ++next) {
    if (sums[next] == 0) continue;  // also where rounding has left something of the sum
    part = next;
    if (left < sums[next]) break;
    left -= sums[next];
  }
  candidates.clear();
  for (std::int64_t i = 0; i < count; ++i)
    if (part_of[i] == part) candidates.push_back(i);
  std::ranges::sort(candidates,
                    [row](std::int64_t a, std::int64_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
  std::int64_t chosen = candidates.front();
  for (const std::int64_t i : candidates) {
    const double weight = static_cast<double>(exponential(-below(i)));
    if (weight == 0) break;  // likewise
    chosen = i;
    if (left < weight) break;
    left -= weight;
  }
  return chosen;
}

}  // namespace

template <class T>
void draw_tokens(const Cpu& cpu, const T* logits, std::int64_t rows, std::int64_t width, std::int64_t count,
                 double temperature, const double* chances, std::int32_t* tokens) {
  parallel_for(cpu, rows, 1 + (1 << 13) / (count + 1), [=](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> part_of(static_cast<std::size_t>(count));
    std::vector<std::int64_t> candidates;
    for (std::int64_t t = begin; t < end; ++t)
      tokens[t] = static_cast<std::int32_t>(
          draw(logits + t * width, count, temperature, chances[t], part_of.data(), candidates));
  });
}

template void draw_tokens(const Cpu&, const float*, std::int64_t, std::int64_t, std::int64_t, double, const double*,
                          std::int32_t*);
template void draw_tokens(const Cpu&, const double*, std::int64_t, std::int64_t, std::int64_t, double, const double*,
                          std::int32_t*);

}  // namespace limbeck::kernels
