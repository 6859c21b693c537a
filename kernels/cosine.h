// How far rows turned: 1 - cosine, the block influence of ShortGPT (Men et al. 2024).
//
//     cosine_distance(cpu, before, after, distance, T, C);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// distance[t] = 1 - x[t]·y[t] / (|x[t]| |y[t]|), summed in double; 1 where a row is zero. T is float, double or
/// bf16.
template <class D, class T>
void cosine_distance(const D& device, const T* x, const T* y, double* distance, std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
