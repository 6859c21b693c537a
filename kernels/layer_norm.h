// Normalisation of rows to mean 0 and variance 1 (Ba, Kiros & Hinton 2016, "Layer normalization").
//
//     layer_norm(cpu, x, weight, bias, y, mean, inverse_deviation, T, C, 1e-5);
//     layer_norm_input_gradient(cpu, x, weight, mean, inverse_deviation, dy, /*add=*/false, dx, T, C);
//     layer_norm_weight_gradient(cpu, x, mean, inverse_deviation, dy, /*add=*/true, dweight, T, C);
//     column_sums(cpu, dy, /*add=*/true, dbias, T, C);   // kernels/bias.h
//
// (X,Y): (float,float), (double,double), (bf16,bf16), (float,bf16). Statistics, sums and arithmetic are in Acc<X>, each
// result rounded once. Derivation: docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// m[t] = mean_c x[t,c]; r[t] = 1 / sqrt(mean_c (x[t,c] - m[t])² + eps); y[t,c] = (x[t,c] - m[t]) r[t] weight[c] +
/// bias[c]. y may be x.
template <class D, class X, class Y>
void layer_norm(const D& device, const X* x, const Acc<X>* weight, const Acc<X>* bias, Y* y, Acc<X>* mean,
                Acc<X>* inverse_deviation, std::int64_t rows, std::int64_t width, double eps);

/// With n = (x - m) r and g = weight dy: dx[t,c] = r[t] (g[t,c] - mean_j g[t,j] - n[t,c] mean_j(g[t,j] n[t,j])); `add`
/// adds to dx.
template <class D, class X, class Y>
void layer_norm_input_gradient(const D& device, const X* x, const Acc<X>* weight, const Acc<X>* mean,
                               const Acc<X>* inverse_deviation, const Y* dy, bool add, X* dx, std::int64_t rows,
                               std::int64_t width);

/// dweight[c] = Σ_t dy[t,c] n[t,c], in one order whatever the number of threads: over blocks of rows, then over the
/// blocks. `add` adds to dweight.
template <class D, class X, class Y>
void layer_norm_weight_gradient(const D& device, const X* x, const Acc<X>* mean, const Acc<X>* inverse_deviation,
                                const Y* dy, bool add, Acc<X>* dweight, std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
