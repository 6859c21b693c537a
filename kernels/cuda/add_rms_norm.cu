#include "kernels/add_rms_norm.h"

#include "kernels/cuda/rms_norm_row.cuh"

namespace limbeck::kernels {

template <class D, class X, class Y>
void add_rms_norm(const D& cuda, const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y, Acc<X>* inverse_rms,
                  std::int64_t rows, std::int64_t width, double eps) {
  launch_rms_norm(cuda, x, delta, weight, sum, y, inverse_rms, rows, width, eps);
}

template <class D>
std::int64_t add_rms_norm_parts(const D&, std::int64_t rows) {
  return parts_of_rows(rows);
}

template <class D, class X, class Y>
void add_rms_norm_gradient(const D& cuda, const X* sum, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                           bool add, X* dsum, Y* ddelta, Acc<X>* parts, std::int64_t rows, std::int64_t width) {
  rms_norm_gradient<X, Y>(cuda, {.x = sum,
                                 .weight = weight,
                                 .inverse_rms = inverse_rms,
                                 .dy = dy,
                                 .add = add,
                                 .dx = dsum,
                                 .ddelta = ddelta,
                                 .parts = parts,
                                 .rows = rows,
                                 .rows_a_part = rows_of_part(rows),
                                 .width = static_cast<int>(width)});
}

template <class D, class T>
void add_rms_norm_weight_gradient(const D& cuda, const T* parts, bool add, T* dweight, std::int64_t rows,
                                  std::int64_t width) {
  sum_parts(cuda, parts, parts_of_rows(rows), width, add, dweight, width);
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                  \
  template void add_rms_norm(const Cuda&, const X*, const Y*, const Acc<X>*, X*, Y*, Acc<X>*, std::int64_t,        \
                             std::int64_t, double);                                                                \
  template void add_rms_norm_gradient(const Cuda&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool, X*, Y*, \
                                      Acc<X>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)
template void add_rms_norm_weight_gradient(const Cuda&, const float*, bool, float*, std::int64_t, std::int64_t);
template void add_rms_norm_weight_gradient(const Cuda&, const double*, bool, double*, std::int64_t, std::int64_t);
template std::int64_t add_rms_norm_parts(const Cuda&, std::int64_t);

}  // namespace limbeck::kernels
