// Normally distributed numbers, for initial weights.
//
//     normal_rows(cpu, stream, /*deviation=*/0.02, row_index, y, rows, width);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/philox.h"

namespace limbeck::kernels {

/// y[r,c] = deviation * stream.normal(row_index[r] + c). T is float or double.
template <class D, class T>
void normal_rows(const D& device, const PhiloxStream& stream, double deviation, const std::int64_t* row_index, T* y,
                 std::int64_t rows, std::int64_t width);

}  // namespace limbeck::kernels
