// Weights as products of bfloat16 activations read them: rounded, packed (kernels/packed.h), and kept.
//
//     const Tensor forward = packed_weight(weight, Transpose::Yes);      // of y = x W^T
//     const Tensor backward = packed_weight(weight, Transpose::No);      // of dx = dy W
#pragma once

#include "core/tensor.h"
#include "kernels/matmul.h"

namespace limbeck::core {

/// The packed op(W) of a weight [out,in], or of each matrix of [E,out,in]: W^T [in,out] if transposed, else W. The
/// weight is float32 or bfloat16. It is packed at the first call and when it has been written since, and kept with the
/// weight's storage until that is freed: 2 bytes an element for each transposition that is asked for.
Tensor packed_weight(const Tensor& weight, kernels::Transpose transpose);

}  // namespace limbeck::core
