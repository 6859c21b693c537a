// Rows times the sigmoid of a number of their own: the shared experts' gate of Qwen2-MoE.
//
//     gate_rows(cpu, gate, x, y, rows, width);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y [rows,width]: y[t,c] = sigmoid(gate[t]) x[t,c], in Acc<T>, rounded once. T is float, double or bf16.
template <class D, class T>
void gate_rows(const D& device, const T* gate, const T* x, T* y, std::int64_t rows, std::int64_t width);

/// With s = sigmoid(gate[t]): dx[t,c] = s dy[t,c] and dgate[t] = s (1 - s) sum_c dy[t,c] x[t,c], a sum in one order.
template <class D, class T>
void gate_rows_gradient(const D& device, const T* gate, const T* x, const T* dy, T* dgate, T* dx, std::int64_t rows,
                        std::int64_t width);

}  // namespace limbeck::kernels
