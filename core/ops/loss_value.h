// What losses over many elements have in common: a float64 sum, divided by a number of elements.
//
//     const double weight = mean_weight("mean", x.numel(), global_count);
//     Var loss = tape.output(as_loss(total, weight, x.dtype()), {&x});
#pragma once

#include <cstdint>
#include <string_view>

#include "core/tensor.h"

namespace limbeck::core {

/// 1 over the elements of a mean: `global_count`, those of all ranks, or `count`, those here, where that is 0. Throws,
/// naming the op, where there are none.
double mean_weight(std::string_view op, std::int64_t count, std::int64_t global_count);

/// weight * total [1] float64, in a dtype. Overwrites the total.
Tensor as_loss(Tensor total, double weight, DType dtype);

}  // namespace limbeck::core
