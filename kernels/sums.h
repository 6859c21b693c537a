// Sums over n values, for losses and gradient norms: float64 accumulation in an order that depends on n alone.
//
//     double squares;
//     sum_of_squares(cpu, gradient, n, &squares);
//     std::isfinite(squares);                         // false: some value is not finite
//
// *sum is on the device, and bit-equal for any number of threads. It is infinite or NaN exactly if some value is
// (float64 values whose sum or square overflows aside). T is float,
// double or bf16.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// *sum = sum of x[i] for i < n.
template <class D, class T>
void sum(const D& device, const T* x, std::int64_t n, double* sum);

/// *sum = sum of x[i]^2, each square taken in float64.
template <class D, class T>
void sum_of_squares(const D& device, const T* x, std::int64_t n, double* sum);

/// *sum = sum of (x[i] - y[i])^2, each difference and square taken in float64.
template <class D, class T>
void sum_of_squared_differences(const D& device, const T* x, const T* y, std::int64_t n, double* sum);

/// *factor = min(1, clip / norm) with norm the root of squares[0] + ... in their order (clip 0: 1); NaN where that is
/// not finite. All on the device.
template <class D>
void clip_factor(const D& device, const double* squares, std::int64_t n, double clip, double* factor);

/// sums[i] += counts[i].
template <class D>
void add_counts(const D& device, const std::int64_t* counts, double* sums, std::int64_t n);

}  // namespace limbeck::kernels
