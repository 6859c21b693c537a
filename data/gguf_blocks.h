// Values of ggml's storage formats as float32: F32, F16, BF16, Q4_1 and Q8_0, exactly as ggml computes them.
//
//     std::vector<float> row(576);
//     dequantize(DType::Q4_1, row_bytes, /*first=*/0, /*count=*/576, row.data());
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace limbeck::data {

/// IEEE half to float32, exact (subnormals, infinities and NaN included).
float float_from_half(std::uint16_t bits);

/// Writes elements [first, first + count) of the values stored at `data` to `out`. The range may start and end inside a
/// block. Q4_1 (half d, half m, 16 bytes): d * q + m, the low nibbles are values 0..15 of a block. Q8_0 (half d, 32
/// int8): d * q. Throws for a dtype that is none of the five.
void dequantize(core::DType dtype, const std::byte* data, std::int64_t first, std::int64_t count, float* out);

}  // namespace limbeck::data
