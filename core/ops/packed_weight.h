// Weights as products of bfloat16 activations read them: rounded and packed (kernels/packed.h).
//
//     const Factor w = packed_weight(weight, Transpose::Yes);      // of y = x W^T
//     kernels::packed_matmul(device, rows, out, in, x, w.factor, 0.F, y);
//
// A weight that is written after every use, as a trained one is, is packed by the tasks that multiply with it: that is
// faster than to pack it before, and takes no memory. One that stays, as a frozen one does, is packed once and kept.
#pragma once

#include "core/tensor.h"
#include "kernels/packed.h"

namespace limbeck::core {

struct Factor {
  kernels::RightFactor factor;
  Tensor packed;  // or none; what `factor` reads lies in it or in the weight
};

/// op(W) of a weight [out,in], or of each matrix of [E,out,in]: W^T [in,out] if transposed, else W. The weight is
/// float32 or bfloat16. When it is asked for the third time since it was written, it is packed, and kept with the
/// weight's storage until that is written or freed: 2 bytes an element for each transposition that is asked for.
Factor packed_weight(const Tensor& weight, kernels::Transpose transpose);

/// The rounded values that a device without packing keeps of a weight, which was written once since: whoever wrote it
/// writes these too, and they count as made of what it has now. Undefined where there are none.
Tensor rounded_to_write(const Tensor& weight);

/// The weight will be asked for often before it is written: it is packed when it is asked for next.
void expect_uses(const Tensor& weight, kernels::Transpose transpose);

}  // namespace limbeck::core
