#include "kernels/rms_norm.h"

#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/rms_norm_row.cuh"

namespace limbeck::kernels {
namespace {

/// The terms of the weight's gradient.
template <class X, class Y>
struct WeightTerms {
  const X* x;
  const Acc<X>* inverse_rms;
  const Y* dy;
  std::int64_t width;
  template <int N, bool Whole>
  __device__ void add(std::int64_t t, std::int64_t c, int count, Values<Acc<X>, N>& sum) const {
    const auto v = load<N, Whole>(x + t * width + c, count);
    const auto d = load<N, Whole>(dy + t * width + c, count);
    const Acc<X> r = inverse_rms[t];
    for (int j = 0; j < N; ++j) sum[j] += d[j] * v[j] * r;
  }
};

}  // namespace

template <class D, class X, class Y>
void rms_norm(const D& cuda, const X* x, const Acc<X>* weight, Y* y, Acc<X>* inverse_rms, std::int64_t rows,
              std::int64_t width, double eps) {
  launch_rms_norm(cuda, x, static_cast<const Y*>(nullptr), weight, const_cast<X*>(x), y, inverse_rms, rows, width, eps);
}

template <class D, class X, class Y>
void rms_norm_input_gradient(const D& cuda, const X* x, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                             bool add, X* dx, std::int64_t rows, std::int64_t width) {
  rms_norm_gradient<X, Y>(cuda, {.x = x,
                                 .weight = weight,
                                 .inverse_rms = inverse_rms,
                                 .dy = dy,
                                 .add = add,
                                 .dx = dx,
                                 .rows = rows,
                                 .rows_a_part = 1,
                                 .width = static_cast<int>(width)});
}

template <class D, class X, class Y>
void rms_norm_weight_gradient(const D& cuda, const X* x, const Acc<X>* inverse_rms, const Y* dy, bool add,
                              Acc<X>* dweight, std::int64_t rows, std::int64_t width) {
  sum_columns<vector_length<X, Y>>(cuda, rows, width, add, WeightTerms<X, Y>{x, inverse_rms, dy, width}, dweight, x,
                                   dy);
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                     \
  template void rms_norm(const Cuda&, const X*, const Acc<X>*, Y*, Acc<X>*, std::int64_t, std::int64_t, double);      \
  template void rms_norm_input_gradient(const Cuda&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool, X*,      \
                                        std::int64_t, std::int64_t);                                                  \
  template void rms_norm_weight_gradient(const Cuda&, const X*, const Acc<X>*, const Y*, bool, Acc<X>*, std::int64_t, \
                                         std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

}  // namespace limbeck::kernels
