// The sum of squares of n values, for gradient norms: float64 accumulation in an order that depends on n alone.
//
//     double squares;
//     sum_of_squares(cpu, gradient, n, &squares);
//     std::isfinite(squares);                         // false: some value is not finite
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// *sum (on the device) = sum of x[i]^2 for i < n, each square taken in float64. Bit-equal for any number of threads.
/// It is infinite or NaN exactly if some x[i] is (float64 values above 1e150 aside, whose squares overflow). T is float
/// or double.
template <class T>
void sum_of_squares(const Cpu& cpu, const T* x, std::int64_t n, double* sum);

}  // namespace limbeck::kernels
