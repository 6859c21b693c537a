// Values into ggml's K-quants: super-blocks of 256 values, cut into runs that have a scale (Q6_K: 16 values a run) or a
// scale and a minimum (Q4_K, Q5_K: 32 values a run), which are numbers of 8 or 6 bits themselves.
//
//     quantize_k(DType::Q4_K, values, bytes);                       // 144 bytes for each 256 values
//
// What a run's scale and minimum are is searched for as in ggml-quants.c (make_qkx2_quants, make_qx_quants): for each
// of a few spacings the integers are rounded and the least-squares scale and minimum for these integers taken; the
// spacing with the least weighted error stays.
#pragma once

#include <cstddef>
#include <span>

#include "core/dtype.h"

namespace limbeck::data {

/// Q4_K, Q5_K or Q6_K of whole super-blocks. The values are finite.
void quantize_k(core::DType dtype, std::span<const float> values, std::byte* out);

}  // namespace limbeck::data
