// Products with weights that may be stored as bfloat16, beside which the other factor is float32 or float64.
//
//     check_weight_dtype("linear", weight, x.dtype());
//     product("linear", Transpose::No, Transpose::Yes, x, weight, /*beta=*/0, y);      // y = x W^T
#pragma once

#include <string_view>

#include "core/tensor.h"
#include "kernels/matmul.h"

namespace limbeck::core {

using kernels::Transpose;

/// Throws, naming `op`, unless the weight has the dtype of what it multiplies or bfloat16.
void check_weight_dtype(std::string_view op, const Tensor& weight, DType dtype);

/// f(the values): T's, or bfloat16.
template <class T, class F>
void with_weight(const Tensor& weight, F&& f) {
  if (weight.dtype() == DType::BF16)
    f(weight.data<bf16>());
  else
    f(weight.data<T>());
}

/// c [m,n] = op(a) op(b) + beta c, of matrices; b may be bfloat16.
void product(std::string_view op, Transpose transpose_a, Transpose transpose_b, const Tensor& a, const Tensor& b,
             double beta, Tensor c);

}  // namespace limbeck::core
