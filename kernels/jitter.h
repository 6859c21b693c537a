// Multiplicative noise.
//
//     jitter(cpu, x, global_index, y, T, C, /*epsilon=*/0.01, stream);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/philox.h"

namespace limbeck::kernels {

/// y[t,c] = x[t,c] (1 + epsilon (2 u - 1)), u = stream.uniform(global_index[t] * width + c) in [0, 1). y may be x. T is
/// float, double or bf16; the product is taken in Acc<T> and rounded once.
template <class D, class T>
void jitter(const D& device, const T* x, const std::int64_t* global_index, T* y, std::int64_t tokens,
            std::int64_t width, double epsilon, const PhiloxStream& stream);

}  // namespace limbeck::kernels
