// Products of activations with weights, and those that give the weights' gradients.
//
//     check_weight_dtype("linear", weight, x.dtype());
//     product("linear", x, Transpose::Yes, weight, /*beta=*/0, y);      // y = x W^T
//     product("linear", dy, Transpose::No, weight, /*beta=*/0, dx);     // dx = dy W
//     weight_gradient("linear", dy, x, /*beta=*/1, dweight);                           // dW += dy^T x
//
// Float32 and float64 activations are multiplied in their own type, and a bfloat16 weight beside them is widened.
// Bfloat16 activations are multiplied in bfloat16 with sums in float32, and a float32 weight beside them is rounded.
// A frozen weight may be in blocks (kernels/blocks.h), beside activations of both.
#pragma once

#include <optional>
#include <string_view>

#include "core/tensor.h"
#include "kernels/matmul.h"

namespace limbeck::core {

using kernels::Transpose;

/// Throws, naming `op`, unless the weight has the dtype of what it multiplies or bfloat16, or float32 beside bfloat16,
/// or is in blocks beside float32 or bfloat16.
void check_weight_dtype(std::string_view op, const Tensor& weight, DType dtype);

/// f(the values): T's, or bfloat16.
template <class T, class F>
void with_weight(const Tensor& weight, F&& f) {
  if (weight.dtype() == DType::BF16)
    f(weight.data<bf16>());
  else
    f(weight.data<T>());
}

/// The blocks of a weight that is in blocks.
std::optional<kernels::Blocks> blocks_of(const Tensor& weight);
/// A weight in blocks as float32.
Tensor expanded(const Tensor& weight);

/// c [m,n] = a [m,k] op(weight) + beta c. Of bfloat16 activations c is bfloat16 or float32.
void product(std::string_view op, const Tensor& a, Transpose transpose, const Tensor& weight, double beta, Tensor c);

/// dw [out,in] = dy [T,out]^T x [T,in] + beta dw, of sum_dtype(dy's).
void weight_gradient(std::string_view op, const Tensor& dy, const Tensor& x, double beta, Tensor dw);

}  // namespace limbeck::core
