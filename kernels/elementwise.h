// Elementwise arithmetic over n values of float, double or bf16, in Acc of their type: each result is rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[i] += x[i]. (A,B): (float,float), (double,double), (bf16,bf16), (float,bf16).
template <class D, class B, class A>
void add_to(const D& device, const B* x, A* y, std::int64_t n);

/// y[i] = a[i] + b[i]; y may be a or b. (A,B) as for add_to.
template <class D, class A, class B>
void add(const D& device, const A* a, const B* b, A* y, std::int64_t n);

/// y[i] = factor * x[i]; y may be x.
template <class D, class T>
void scale(const D& device, const T* x, Acc<T> factor, T* y, std::int64_t n);

/// y[i] = weight * value[0]; a null value is 1.
template <class D, class T>
void fill(const D& device, const T* value, double weight, T* y, std::int64_t n);

/// y[i] = weight * factor[0] * (a[i] - b[i])
template <class D, class T>
void scaled_difference(const D& device, const T* a, const T* b, const T* factor, double weight, T* y, std::int64_t n);

/// y[i] = the sum of parts[p * n + i] over p < count in their order, in Acc<T>, rounded once. T is float, double or
/// bf16.
template <class D, class T>
void sum_of_parts(const D& device, const T* parts, std::int64_t count, T* y, std::int64_t n);

}  // namespace limbeck::kernels
