// Block influence (ShortGPT, Men et al. 2024): how far a layer turns the hidden states. Not differentiable.
//
//     influence[layer] += cosine_distance(before /*[T,C]*/, after /*[T,C]*/);      // then divided by the tokens
#pragma once

#include "core/tensor.h"

namespace limbeck::core {

/// Σ_t (1 - cosine(x[t], y[t])), in double; a zero row counts 1. float32 or float64. Reads the result on the host.
double cosine_distance(const Tensor& x /*[T,C]*/, const Tensor& y /*[T,C]*/);

}  // namespace limbeck::core
