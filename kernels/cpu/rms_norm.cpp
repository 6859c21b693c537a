#include "kernels/rms_norm.h"

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rms_norm_row.h"

namespace limbeck::kernels {

template <class D, class X, class Y>
void rms_norm(const D& cpu, const X* x, const Acc<X>* weight, Y* y, Acc<X>* inverse_rms, std::int64_t rows,
              std::int64_t width, double eps) {
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      inverse_rms[t] = inverse_rms_of_row(x + t * width, width, eps);
      normalise_row(x + t * width, inverse_rms[t], weight, y + t * width, width);
    }
  });
}

template <class D, class X, class Y>
void rms_norm_input_gradient(const D& cpu, const X* x, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                             bool add, X* dx, std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, rms_norm_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      rms_norm_row_gradient(x + t * width, weight, inverse_rms[t], dy + t * width, add, dx + t * width, width);
  });
}

template <class D, class X, class Y>
void rms_norm_weight_gradient(const D& cpu, const X* x, const Acc<X>* inverse_rms, const Y* dy, bool add,
                              Acc<X>* dweight, std::int64_t rows, std::int64_t width) {
  sum_columns(cpu, rows, width, add, dweight, [=](std::int64_t t, std::int64_t first, std::int64_t n, Acc<X>* part) {
    const std::int64_t at = t * width + first;
    add_row_to_weight_gradient(x + at, inverse_rms[t], dy + at, part, n);
  });
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                    \
  template void rms_norm(const Cpu&, const X*, const Acc<X>*, Y*, Acc<X>*, std::int64_t, std::int64_t, double);      \
  template void rms_norm_input_gradient(const Cpu&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool, X*,      \
                                        std::int64_t, std::int64_t);                                                 \
  template void rms_norm_weight_gradient(const Cpu&, const X*, const Acc<X>*, const Y*, bool, Acc<X>*, std::int64_t, \
                                         std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

}  // namespace limbeck::kernels
