// Products of bfloat16 activations with a weight, both rounded to FP8 in blocks of 128 (kernels/fp8.h).
//
//     fp8_product("linear", x, Transpose::Yes, weight, /*beta=*/0, y);        // y = x W^T
//     fp8_product("linear", dy, Transpose::No, weight, /*beta=*/0, dx);       // dx = dy W
#pragma once

#include <string_view>

#include "core/tensor.h"
#include "kernels/fp8.h"
#include "kernels/matmul.h"

namespace limbeck::core {

/// A weight [out,in] in FP8, as it lies and transposed, so that what either product sums lies in rows.
struct Fp8Weight {
  kernels::Fp8Factor forward;   // [out,in]
  kernels::Fp8Factor backward;  // [in,out]
  Tensor memory;                // which they lie in
};

/// Made when it is first asked for since the weight was written, and kept with the weight's storage until that is
/// written or freed: 2 bytes an element. The weight is float32 or bfloat16. Blocks are those of this rank's part.
Fp8Weight fp8_weight(const Tensor& weight);

/// c [m,n] = a [m,k] op(weight) + beta c, of bfloat16 activations; c is bfloat16 or float32. Throws, naming `op`, where
/// dtypes are others.
void fp8_product(std::string_view op, const Tensor& a, kernels::Transpose transpose, const Tensor& weight, double beta,
                 Tensor c);

}  // namespace limbeck::core
