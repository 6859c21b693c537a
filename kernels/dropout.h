// Dropout (Srivastava et al. 2014), by the global place of an element.
//
//     dropout(cpu, x, global_index, y, T, C, /*probability=*/0.1, stream);      // the gradient is the same of dy
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/philox.h"

namespace limbeck::kernels {

/// y[t,c] = x[t,c] / (1 - probability) where stream.uniform(global_index[t] * width + c) >= probability, else 0,
/// whatever x is there. 0 <= probability < 1. y may be x. T is float, double or bf16; the product is taken in
/// Acc<T> and rounded once.
template <class D, class T>
void dropout(const D& device, const T* x, const std::int64_t* global_index, T* y, std::int64_t rows, std::int64_t width,
             double probability, const PhiloxStream& stream);

}  // namespace limbeck::kernels
