// Sums over the rows of each column, in one order whatever the number of threads: a thread has a strip of columns, for
// which it adds up blocks of 32 rows, then the blocks.
//
//     sum_columns(cpu, rows, width, /*add=*/false, sums,
//                 [&](std::int64_t t, std::int64_t first, std::int64_t n, float* part) {
//                   for (std::int64_t c = 0; c < n; ++c) part[c] += x[t * width + first + c];
//                 });
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

/// Rows that are added up before they are added to the rows before.
inline constexpr std::int64_t summed_rows = 32;

/// add_row(t, first, n, part) adds row t's terms of columns [first, first + n) to part. `add` adds to total.
template <class A, class F>
void sum_columns(const Cpu& cpu, std::int64_t rows, std::int64_t width, bool add, A* total, F&& add_row) {
  constexpr std::int64_t columns = 128;
  const std::int64_t num_strips = (width + columns - 1) / columns;
  parallel_for(cpu, num_strips, 1 + (1 << 14) / (columns * (rows + 1)), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t first = strip * columns;
      const std::int64_t n = std::min(columns, width - first);
      A sum[columns] = {};
      for (std::int64_t block = 0; block < rows; block += summed_rows) {
        A part[columns] = {};
        for (std::int64_t t = block; t < std::min(rows, block + summed_rows); ++t) add_row(t, first, n, part);
        for (std::int64_t c = 0; c < n; ++c) sum[c] += part[c];
      }
      for (std::int64_t c = 0; c < n; ++c) total[first + c] = add ? total[first + c] + sum[c] : sum[c];
    }
  });
}

}  // namespace limbeck::kernels
