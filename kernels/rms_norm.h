// Root-mean-square normalisation of rows (Zhang & Sennrich 2019, "Root mean square layer normalization").
//
//     rms_norm(cpu, x, weight, y, inverse_rms, T, C, 1e-5);
//     rms_norm_input_gradient(cpu, x, weight, inverse_rms, dy, /*add=*/false, dx, T, C);
//     rms_norm_weight_gradient(cpu, x, inverse_rms, dy, /*add=*/true, dweight, T, C);
//
// (X,Y): (float,float), (double,double), (bf16,bf16), (float,bf16). Statistics, sums and arithmetic are in Acc<X>, each
// result rounded once. Derivation: docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// r[t] = 1 / sqrt(mean_c x[t,c]² + eps); y[t,c] = x[t,c] r[t] weight[c]. y may be x.
template <class D, class X, class Y>
void rms_norm(const D& device, const X* x, const Acc<X>* weight, Y* y, Acc<X>* inverse_rms, std::int64_t rows,
              std::int64_t width, double eps);

/// dx[t,c] = r[t] (weight[c] dy[t,c] - x[t,c] r[t]² mean_j(weight[j] dy[t,j] x[t,j])); `add` adds to dx.
template <class D, class X, class Y>
void rms_norm_input_gradient(const D& device, const X* x, const Acc<X>* weight, const Acc<X>* inverse_rms, const Y* dy,
                             bool add, X* dx, std::int64_t rows, std::int64_t width);

/// dweight[c] = Σ_t dy[t,c] x[t,c] r[t], in one order whatever the number of threads: over blocks of 32 rows, then over
/// the blocks. `add` adds to dweight.
template <class D, class X, class Y>
void rms_norm_weight_gradient(const D& device, const X* x, const Acc<X>* inverse_rms, const Y* dy, bool add,
                              Acc<X>* dweight, std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
