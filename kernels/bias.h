// A row that is added to every row, and its gradient, a sum over the rows.
//
//     add_bias(cpu, x, bias, y, T, C);
//     column_sums(cpu, dy, /*add=*/true, dbias, T, C);
//
// T is float, double or bf16; arithmetic is in Acc<T>, each result rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[t,c] = x[t,c] + bias[c]; y may be x.
template <class D, class T>
void add_bias(const D& device, const T* x, const Acc<T>* bias, T* y, std::int64_t rows, std::int64_t width);

/// sums[c] = Σ_t x[t,c], in one order whatever the number of threads: over blocks of rows, then over the blocks. `add`
/// adds to sums.
template <class D, class T>
void column_sums(const D& device, const T* x, bool add, Acc<T>* sums, std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
