// A sum and its root-mean-square norm, in one pass over memory: what a block adds to the residual stream, and what the
// next one reads of it.
//
//     add_rms_norm(cpu, x, delta, weight, sum, y, inverse_rms, T, C, 1e-5);
//     add_rms_norm_gradient(cpu, sum, weight, inverse_rms, dy, /*add=*/true, dsum, ddelta, parts, T, C);
//     add_rms_norm_weight_gradient(cpu, parts, /*add=*/false, dweight, T, C);
//
// X is the stream's type, Y that of what is added and of the result: (float,float), (double,double), (bf16,bf16),
// (float,bf16). Statistics, sums and arithmetic are in Acc<X>, each result rounded once; the norm is that of the sum as
// it was rounded. The bits are those of kernels/elementwise.h's add and kernels/rms_norm.h. Derivation:
// docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// sum[t,c] = x[t,c] + delta[t,c]; r[t] = 1 / sqrt(mean_c sum[t,c]² + eps); y[t,c] = sum[t,c] r[t] weight[c].
/// sum may be x, or delta where it has its type.
template <class D, class X, class Y>
void add_rms_norm(const D& device, const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y, Acc<X>* inverse_rms,
                  std::int64_t rows, std::int64_t width, double eps);

/// Rows of the parts that the weight's gradient is added up from.
template <class D>
std::int64_t add_rms_norm_parts(const D& device, std::int64_t rows);

/// d = r[t] (weight[c] dy[t,c] - sum[t,c] r[t]² mean_j(weight[j] dy[t,j] sum[t,j])), and with `add` dsum[t,c], the
/// gradient that the sum got elsewhere, too: dsum[t,c] = d, the gradient of x. ddelta gets the same as a Y, unless it
/// is null. parts [add_rms_norm_parts(rows), width] gets the sums of dy[t,c] sum[t,c] r[t] over some rows each, unless
/// null.
template <class D, class X, class Y>
void add_rms_norm_gradient(const D& device, const X* sum, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                           bool add, X* dsum, Y* ddelta, Acc<X>* parts, std::int64_t rows, std::int64_t width);

/// dweight[c] = Σ parts[.,c] in their order, whatever the number of threads; `add` adds to dweight. T: float, double.
template <class D, class T>
void add_rms_norm_weight_gradient(const D& device, const T* parts, bool add, T* dweight, std::int64_t rows,
                                  std::int64_t width);

}  // namespace limbeck::kernels
