// A linear layer.
//
//     Var y = linear(tape, x, as_var(weight));                                          // [T,in], [out,in] -> [T,out]
//     Var z = linear(tape, x, as_var(weight), Products::AsActivations, as_var(bias));   // bias [out]
#pragma once

#include <cstdint>
#include <optional>

#include "core/tape.h"

namespace limbeck::core {

/// What the factors are in y = x W^T and in the gradient of x; that of the weight has those of x's dtype.
enum class Products : std::uint8_t { AsActivations, Fp8 };

/// y = x W^T, and a bias is added to each row (add_bias), of x's dtype: float32, float64 or bfloat16
/// (core/ops/product.h). The weight has the same dtype, or bfloat16; or float32 beside bfloat16. Its gradient is the
/// step's weight part, float32 beside bfloat16, else of x's dtype. With Products::Fp8 (core/ops/fp8_product.h) x is
/// bfloat16, and the weight not in blocks. Throws where shapes or dtypes do not fit.
Var linear(Tape& tape, const Var& x /*[T,in]*/, const Var& weight /*[out,in]*/,
           Products products = Products::AsActivations, const std::optional<Var>& bias /*[out]*/ = {});

/// Its parts without a bias, for whoever has some rows on their way before all are made. This one writes some rows of
/// y, of as many of x; it throws as linear does.
void linear_rows(const Tensor& x /*[R,in]*/, const Tensor& weight /*[out,in]*/, Products products,
                 Tensor y /*[R,out]*/);
/// Backward, of some rows: dx = dy W + beta dx.
void linear_rows_back(const Tensor& dy /*[R,out]*/, const Tensor& weight /*[out,in]*/, Products products, double beta,
                      Tensor dx /*[R,in]*/);
/// Pushes the step by which the gradient in `slot`, of a y [T,out] of all rows, goes on to x, where that has a slot,
/// and the weight. Of y it keeps the shape.
void push_linear(Tape& tape, const Var& x, const Var& weight, Products products, const SlotPtr& slot, const Tensor& y);

}  // namespace limbeck::core
