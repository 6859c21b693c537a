// Root-mean-square normalisation of gated rows, in groups of channels (core/ops/gated_rms_norm.h).
//
//     gated_rms_norm(cpu, y, z, weight, u, inverse_rms, T, G, W, 1e-5);
//     gated_rms_norm_input_gradient(cpu, y, z, weight, inverse_rms, du, dy, dz, T, G, W);
//     gated_rms_norm_weight_gradient(cpu, y, z, inverse_rms, du, /*add=*/true, dweight, T, G, W);
//
// T is float, double or bf16; statistics, sums and arithmetic are in Acc<T>, each result rounded once. Rows are of
// `groups` times `width` channels. Derivation: docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// g = y silu(z); r[t,i] = 1 / sqrt(mean of g² over group i + eps); u[t,c] = g[t,c] r[t,i(c)] weight[c].
template <class D, class T>
void gated_rms_norm(const D& device, const T* y, const T* z, const Acc<T>* weight, T* u, Acc<T>* inverse_rms,
                    std::int64_t rows, std::int64_t groups, std::int64_t width, double eps);

/// dg as dx of kernels/rms_norm.h in each group; dy = dg silu(z), dz = dg y silu'(z). Overwrites both.
template <class D, class T>
void gated_rms_norm_input_gradient(const D& device, const T* y, const T* z, const Acc<T>* weight,
                                   const Acc<T>* inverse_rms, const T* du, T* dy, T* dz, std::int64_t rows,
                                   std::int64_t groups, std::int64_t width);

/// dweight[c] = Σ_t du[t,c] g[t,c] r[t,i(c)], in one order whatever the number of threads. `add` adds to dweight.
template <class D, class T>
void gated_rms_norm_weight_gradient(const D& device, const T* y, const T* z, const Acc<T>* inverse_rms, const T* du,
                                    bool add, Acc<T>* dweight, std::int64_t rows, std::int64_t groups,
                                    std::int64_t width);

}  // namespace limbeck::kernels
