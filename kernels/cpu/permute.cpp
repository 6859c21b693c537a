#include "kernels/permute.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

std::int64_t row_grain(std::int64_t width) { return 1 + (1 << 14) / (width + 1); }

}  // namespace

template <class D>
void sort_by_expert(const D&, const std::int32_t* selection, std::int64_t tokens, std::int64_t selected,
                    std::int64_t experts, std::int64_t* counts, std::int32_t* row_of, std::int32_t* source) {
  const std::int64_t n = tokens * selected;
  std::fill_n(counts, experts, 0);
  for (std::int64_t a = 0; a < n; ++a)
    if (selection[a] >= 0) ++counts[selection[a]];
  std::vector<std::int64_t> next(experts, 0);
  for (std::int64_t e = 1; e < experts; ++e) next[e] = next[e - 1] + counts[e - 1];
  for (std::int64_t a = 0; a < n; ++a) {
    if (selection[a] < 0) {
      row_of[a] = -1;
      continue;
    }
    const std::int64_t row = next[selection[a]]++;
    row_of[a] = static_cast<std::int32_t>(row);
    source[row] = static_cast<std::int32_t>(a);
  }
  std::fill(source + std::accumulate(counts, counts + experts, std::int64_t{0}), source + n, -1);
}

template <class D>
void renumber(const D&, const std::int32_t* x, const std::int32_t* number, std::int32_t* y, std::int64_t n) {
  std::transform(x, x + n, y, [=](std::int32_t at) { return at < 0 ? -1 : number[at]; });
}

template <class D>
void offsets_of_counts(const D&, const std::int64_t* counts, std::int64_t n, std::int64_t* offsets) {
  offsets[0] = 0;
  std::partial_sum(counts, counts + n, offsets + 1);
}

template <class D, class T>
void permute_rows(const D& cpu, const T* x, const std::int32_t* source, T* y, std::int64_t rows, std::int64_t selected,
                  std::int64_t width) {
  parallel_for(cpu, rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      if (source[r] < 0)
        std::fill_n(y + r * width, width, T{});
      else
        std::copy_n(x + source[r] / selected * width, width, y + r * width);
  });
}

template <class D, class T>
void unpermute_rows(const D& cpu, const T* rows, const std::int32_t* row_of, const Acc<T>* weights, T* y,
                    std::int64_t tokens, std::int64_t selected, std::int64_t width) {
  constexpr std::int64_t columns = 512;  // their sums stay in the first-level cache
  parallel_for(cpu, tokens, row_grain(width * selected), [=](std::int64_t begin, std::int64_t end) {
    alignas(64) Acc<T> sum[columns];
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t first = 0; first < width; first += columns) {
        const std::int64_t n = std::min(columns, width - first);
        std::fill_n(sum, n, Acc<T>{0});
        for (std::int64_t a = t * selected; a < (t + 1) * selected; ++a) {
          if (row_of[a] < 0) continue;
          const T* from = rows + row_of[a] * width + first;
          const Acc<T> w = weights ? weights[a] : 1;
#pragma omp simd
          for (std::int64_t c = 0; c < n; ++c) sum[c] += w * as<Acc<T>>(from[c]);
        }
        T* to = y + t * width + first;
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) to[c] = as<T>(sum[c]);
      }
  });
}

template <class D, class T>
void unpermute_gradient(const D& cpu, const T* rows, const std::int32_t* source, const Acc<T>* weights, const T* dy,
                        T* drows, Acc<T>* dweights, std::int64_t num_rows, std::int64_t tokens, std::int64_t selected,
                        std::int64_t width) {
  if (dweights != nullptr) std::fill_n(dweights, tokens * selected, Acc<T>{0});
  parallel_for(cpu, num_rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      if (source[r] < 0) {
        if (drows != nullptr) std::fill_n(drows + r * width, width, T{});
        continue;
      }
      const T* from = dy + source[r] / selected * width;
      if (drows != nullptr) {
        T* to = drows + r * width;
        const Acc<T> w = weights[source[r]];
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) to[c] = as<T>(w * as<Acc<T>>(from[c]));
      }
      if (dweights != nullptr) {
        const T* row = rows + r * width;
        Acc<T> sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t c = 0; c < width; ++c) sum += as<Acc<T>>(row[c]) * as<Acc<T>>(from[c]);
        dweights[source[r]] = sum;
      }
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                         \
  template void permute_rows(const Cpu&, const T*, const std::int32_t*, T*, std::int64_t, std::int64_t, std::int64_t); \
  template void unpermute_rows(const Cpu&, const T*, const std::int32_t*, const Acc<T>*, T*, std::int64_t,             \
                               std::int64_t, std::int64_t);                                                            \
  template void unpermute_gradient(const Cpu&, const T*, const std::int32_t*, const Acc<T>*, const T*, T*, Acc<T>*,    \
                                   std::int64_t, std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)
template void renumber(const Cpu&, const std::int32_t*, const std::int32_t*, std::int32_t*, std::int64_t);
template void offsets_of_counts(const Cpu&, const std::int64_t*, std::int64_t, std::int64_t*);
template void sort_by_expert(const Cpu&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t, std::int64_t*,
                             std::int32_t*, std::int32_t*);

}  // namespace limbeck::kernels
