// Normalisation of rows to mean 0 and variance 1 (Ba, Kiros & Hinton 2016).
//
//     Var y = layer_norm(tape, x /*[T,C]*/, as_var(weight) /*[C]*/, as_var(bias) /*[C]*/, config.norm_eps);
#pragma once

#include <optional>

#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = (x[t,c] - m) / sqrt(mean_c (x[t,c] - m)² + eps) weight[c] + bias[c] with m = mean_c x[t,c], of a dtype:
/// x's, or bfloat16 of float32. x is float32, float64 or bfloat16, beside which weight, bias, their gradients and all
/// sums are float32. The gradients of weight and bias add over the rows in one order, whatever the number of threads.
Var layer_norm(Tape& tape, const Var& x /*[T,C]*/, const Var& weight /*[C]*/, const Var& bias /*[C]*/, double eps,
               std::optional<DType> dtype = {});

}  // namespace limbeck::core
