#include "kernels/add_rms_norm.h"

#include <algorithm>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rms_norm_row.h"

namespace limbeck::kernels {

template <class D, class X, class Y>
void add_rms_norm(const D& cpu, const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y, Acc<X>* inverse_rms,
                  std::int64_t rows, std::int64_t width, double eps) {
  using A = Acc<X>;
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = t * width;
#pragma omp simd
      for (std::int64_t i = first; i < first + width; ++i) sum[i] = as<X>(as<A>(x[i]) + as<A>(delta[i]));
      inverse_rms[t] = inverse_rms_of_row(sum + first, width, eps);
      normalise_row(sum + first, inverse_rms[t], weight, y + first, width);
    }
  });
}

template <class D>
std::int64_t add_rms_norm_parts(const D&, std::int64_t rows) {
  return (rows + summed_rows - 1) / summed_rows;
}

// Rows are in the first-level cache after the first look at them, so that each of their loops is short and plain.
template <class D, class X, class Y>
void add_rms_norm_gradient(const D& cpu, const X* sum, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                           bool add, X* dsum, Y* ddelta, Acc<X>* parts, std::int64_t rows, std::int64_t width) {
  const std::int64_t grain = 1 + rms_norm_grain(width) / summed_rows;
  parallel_for(cpu, add_rms_norm_parts(cpu, rows), grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      Acc<X>* part = parts != nullptr ? parts + block * width : nullptr;
      if (part != nullptr) std::fill_n(part, width, Acc<X>{0});
      for (std::int64_t t = block * summed_rows; t < std::min(rows, (block + 1) * summed_rows); ++t) {
        const std::int64_t first = t * width;
        rms_norm_row_gradient(sum + first, weight, inverse_rms[t], dy + first, add, dsum + first, width);
        if (part != nullptr) add_row_to_weight_gradient(sum + first, inverse_rms[t], dy + first, part, width);
        if (ddelta == nullptr) continue;
#pragma omp simd
        for (std::int64_t i = first; i < first + width; ++i) ddelta[i] = as<Y>(as<Acc<X>>(dsum[i]));
      }
    }
  });
}

template <class D, class T>
void add_rms_norm_weight_gradient(const D& cpu, const T* parts, bool add, T* dweight, std::int64_t rows,
                                  std::int64_t width) {
  constexpr std::int64_t columns = 128;
  const std::int64_t num_parts = add_rms_norm_parts(cpu, rows);
  const std::int64_t num_strips = (width + columns - 1) / columns;
  parallel_for(cpu, num_strips, 1 + (1 << 14) / (columns * (num_parts + 1)), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t first = strip * columns;
      const std::int64_t n = std::min(columns, width - first);
      T total[columns] = {};
      for (std::int64_t block = 0; block < num_parts; ++block) {
        const T* part = parts + block * width + first;
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) total[c] += part[c];
      }
      for (std::int64_t c = 0; c < n; ++c) dweight[first + c] = add ? dweight[first + c] + total[c] : total[c];
    }
  });
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                 \
  template void add_rms_norm(const Cpu&, const X*, const Y*, const Acc<X>*, X*, Y*, Acc<X>*, std::int64_t,        \
                             std::int64_t, double);                                                               \
  template void add_rms_norm_gradient(const Cpu&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool, X*, Y*, \
                                      Acc<X>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)
template void add_rms_norm_weight_gradient(const Cpu&, const float*, bool, float*, std::int64_t, std::int64_t);
template void add_rms_norm_weight_gradient(const Cpu&, const double*, bool, double*, std::int64_t, std::int64_t);
template std::int64_t add_rms_norm_parts(const Cpu&, std::int64_t);

}  // namespace limbeck::kernels
