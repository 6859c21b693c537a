// Rows that hold one number.
//
//     one_hot(cpu, targets, log_odds, logits, n, columns, vocabulary_offset);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// y [rows,columns]: y[t,c] = value where c is index[t] - first, else 0. T is float or double.
template <class D, class T>
void one_hot(const D& device, const std::int32_t* index, T value, T* y, std::int64_t rows, std::int64_t columns,
             std::int64_t first);

}  // namespace limbeck::kernels
