// Values of ggml's storage formats: as float32, exactly as ggml computes them, and back for the formats that are
// written.
//
//     std::vector<float> row(576);
//     dequantize(DType::Q4_1, row_bytes, /*first=*/0, /*count=*/576, row.data());
//     quantize(DType::Q8_0, row, bytes);                          // 18 blocks of 34 bytes
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace limbeck::data {

/// Writes elements [first, first + count) of the values stored at `data` to `out`. The range may start and end inside a
/// block. Throws for a dtype that is neither F32, F16, BF16 nor a block format.
void dequantize(core::DType dtype, const std::byte* data, std::int64_t first, std::int64_t count, float* out);

/// Stores `values` at `out` as F32, F16, BF16 (rounded to nearest, ties to even), or as whole blocks: of Q8_0 (d =
/// max|x| / 127 rounded to half, q = x / d rounded to nearest, ties away from 0), Q4_0, Q5_0 and Q5_1 as the
/// quantize_row_*_ref of ggml-quants.c, of Q4_K, Q5_K and Q6_K (k_quants.h), and of MXFP4 (of two scales the one of the
/// smaller error, values rounded to nearest, ties to even). Throws for another dtype, and for a value that is not
/// finite there.
void quantize(core::DType dtype, std::span<const float> values, std::byte* out);

}  // namespace limbeck::data
