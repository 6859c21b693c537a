// How far a student's hidden states are from its teacher's, row by row, for distillation (docs/gradients.md).
//
//     row_distance(cpu, RowDistance::Cosine, x, y, targets, weight, distance, squares, T, C);
//     row_distance_gradient(cpu, RowDistance::Cosine, x, y, targets, weight, dloss, dx, T, C);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/distillation.h"

namespace limbeck::kernels {

enum class RowDistance : std::uint8_t {
  Cosine,        // 1 - x.y / (|x| |y|); 1, without a gradient, where a row is zero
  SquaredError,  // the mean of (x - y)^2 over the width
};

/// distance [rows] times the weight, and squares [rows], the square of its gradient's length; sums in double; 0 in rows
/// whose target is -1. T is float, double or bf16.
template <class D, class T>
void row_distance(const D& device, RowDistance kind, const T* x, const Acc<T>* y, const std::int32_t* targets,
                  TokenWeight weight, double* distance, double* squares, std::int64_t rows, std::int64_t width);

/// dx [rows,width] = weight dloss[0] d(distance)/dx, 0 in rows whose target is -1.
template <class D, class T>
void row_distance_gradient(const D& device, RowDistance kind, const T* x, const Acc<T>* y, const std::int32_t* targets,
                           TokenWeight weight, const Acc<T>* dloss, T* dx, std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
