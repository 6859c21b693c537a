// Root-mean-square normalisation of rows that are cut over ranks: each has some columns, and sums are of all.
//
//     row_squares(cpu, x, squares, T, C);                                        // then summed over the ranks
//     cut_rms_norm(cpu, x, weight, squares, y, inverse_rms, T, C, total, 1e-5);
//     row_dots(cpu, x, weight, dy, dots, T, C);                                  // then summed over the ranks
//     cut_rms_norm_input_gradient(cpu, x, weight, inverse_rms, dots, dy, /*add=*/false, dx, T, C, total);
//
// The weight's gradient is that of kernels/rms_norm.h. T is float, double or bf16; statistics, sums and arithmetic are
// in Acc<T>, each result rounded once. Derivation: docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// squares[t] = Σ_c x[t,c]²
template <class D, class T>
void row_squares(const D& device, const T* x, Acc<T>* squares, std::int64_t rows, std::int64_t width);

/// r[t] = 1 / sqrt(squares[t] / total + eps); y[t,c] = x[t,c] r[t] weight[c].
template <class D, class T>
void cut_rms_norm(const D& device, const T* x, const Acc<T>* weight, const Acc<T>* squares, T* y, Acc<T>* inverse_rms,
                  std::int64_t rows, std::int64_t width, std::int64_t total, double eps);

/// dots[t] = Σ_c weight[c] dy[t,c] x[t,c]
template <class D, class T>
void row_dots(const D& device, const T* x, const Acc<T>* weight, const T* dy, Acc<T>* dots, std::int64_t rows,
              std::int64_t width);

/// dx[t,c] = r[t] (weight[c] dy[t,c] - x[t,c] r[t]² dots[t] / total); `add` adds to dx.
template <class D, class T>
void cut_rms_norm_input_gradient(const D& device, const T* x, const Acc<T>* weight, const Acc<T>* inverse_rms,
                                 const Acc<T>* dots, const T* dy, bool add, T* dx, std::int64_t rows,
                                 std::int64_t width, std::int64_t total);

}  // namespace limbeck::kernels
