// Elementwise arithmetic over n values. T is float or double.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[i] += x[i]
template <class T>
void add_to(const Cpu& cpu, const T* x, T* y, std::int64_t n);

/// y[i] = a[i] + b[i]; y may be a or b.
template <class T>
void add(const Cpu& cpu, const T* a, const T* b, T* y, std::int64_t n);

/// y[i] = factor * x[i]; y may be x.
template <class T>
void scale(const Cpu& cpu, const T* x, T factor, T* y, std::int64_t n);

/// y[i] = weight * value[0]
template <class T>
void fill(const Cpu& cpu, const T* value, double weight, T* y, std::int64_t n);

/// y[i] = weight * factor[0] * (a[i] - b[i])
template <class T>
void scaled_difference(const Cpu& cpu, const T* a, const T* b, const T* factor, double weight, T* y, std::int64_t n);

/// y[i] = x[i] rounded to nearest, ties to even.
void round_to_bf16(const Cpu& cpu, const float* x, bf16* y, std::int64_t n);

}  // namespace limbeck::kernels
