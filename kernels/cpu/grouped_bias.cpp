#include "kernels/grouped_bias.h"

#include <algorithm>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void add_grouped_bias(const D& cpu, const T* x, const Acc<T>* bias, T* y, const GroupedRows& s) {
  parallel_for(cpu, s.rows, 1 + (1 << 15) / (s.width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* from = x + r * s.width;
      T* to = y + r * s.width;
      if (to != from) std::copy_n(from, s.width, to);
      if (r < s.offsets[0] || r >= s.offsets[s.groups]) continue;
      const std::int64_t e = std::upper_bound(s.offsets, s.offsets + s.groups, r) - s.offsets - 1;
      const Acc<T>* of_group = bias + e * s.columns;
#pragma omp simd
      for (std::int64_t c = 0; c < s.columns; ++c) to[s.first + c] = as<T>(as<Acc<T>>(to[s.first + c]) + of_group[c]);
    }
  });
}

// Groups side by side, as their products.
template <class D, class T>
void grouped_column_sums(const D& cpu, const T* x, bool add, Acc<T>* sums, const GroupedRows& s) {
  for_each_task(cpu, s.groups, [&, one = Cpu{1, nullptr}](std::int64_t e) {
    const T* rows = x + s.offsets[e] * s.width + s.first;
    sum_columns(one, s.offsets[e + 1] - s.offsets[e], s.columns, add, sums + e * s.columns,
                [&](std::int64_t r, std::int64_t first, std::int64_t n, Acc<T>* part) {
                  const T* row = rows + r * s.width + first;
#pragma omp simd
                  for (std::int64_t c = 0; c < n; ++c) part[c] += as<Acc<T>>(row[c]);
                });
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                 \
  template void add_grouped_bias(const Cpu&, const T*, const Acc<T>*, T*, const GroupedRows&); \
  template void grouped_column_sums(const Cpu&, const T*, bool, Acc<T>*, const GroupedRows&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
