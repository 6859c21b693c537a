// Products of groups of rows with one matrix each: the experts of a mixture. Group e is rows [offsets[e], offsets[e+1])
// and has the weight [out,in] at weight + e * out * in.
//
//     grouped_matmul(cpu, experts, in, out, offsets, rows, weight, 0.F, y);                // y_e   = rows_e W_e^T
//     grouped_matmul_input(cpu, experts, in, out, offsets, dy, weight, 0.F, drows);        // drows = dy_e W_e
//     grouped_matmul_weight(cpu, experts, in, out, offsets, dy, rows, 1.F, dweight);       // dW_e += dy_e^T rows_e
//
// `offsets` [experts+1] is ascending and lies on the device. Rows outside [offsets[0], offsets[experts]) are neither
// read nor written. A group without rows gives dW_e = beta dW_e. With several threads, groups run side by side.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// rows [R,in], weight [experts,out,in], y [R,out] = rows W^T + beta y. T is float or double.
template <class D, class T>
void grouped_matmul(const D& device, std::int64_t experts, std::int64_t in, std::int64_t out,
                    const std::int64_t* offsets, const T* rows, const T* weight, T beta, T* y);
/// The same with a weight in bfloat16 storage, which is widened to T by tiles.
template <class D, class T>
void grouped_matmul(const D& device, std::int64_t experts, std::int64_t in, std::int64_t out,
                    const std::int64_t* offsets, const T* rows, const bf16* weight, T beta, T* y);

/// dy [R,out], weight [experts,out,in], drows [R,in] = dy W + beta drows.
template <class D, class T>
void grouped_matmul_input(const D& device, std::int64_t experts, std::int64_t in, std::int64_t out,
                          const std::int64_t* offsets, const T* dy, const T* weight, T beta, T* drows);
template <class D, class T>
void grouped_matmul_input(const D& device, std::int64_t experts, std::int64_t in, std::int64_t out,
                          const std::int64_t* offsets, const T* dy, const bf16* weight, T beta, T* drows);

/// dy [R,out], rows [R,in], dweight [experts,out,in] = dy^T rows + beta dweight.
template <class D, class T>
void grouped_matmul_weight(const D& device, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const T* dy, const T* rows, T beta, T* dweight);

/// The same of bfloat16 rows, with sums in float32.
template <class D>
void grouped_matmul_weight(const D& device, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const bf16* dy, const bf16* rows, float beta, float* dweight);

/// Clears the rows of y [num_rows,width] that belong to no group.
template <class D, class T>
void clear_ungrouped_rows(const D& device, std::int64_t experts, const std::int64_t* offsets, std::int64_t num_rows,
                          std::int64_t width, T* y);

}  // namespace limbeck::kernels
