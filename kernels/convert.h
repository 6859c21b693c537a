// Values of one floating type as another's.
//
//     convert(cpu, master, weight, n);      // float32 -> bfloat16
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[i] = x[i], rounded to nearest, ties to even, where To is narrower; beyond its range infinity. A double becomes a
/// bfloat16 by way of float32. From and To are any of float, double and bf16; x and y do not overlap.
template <class D, class From, class To>
void convert(const D& device, const From* x, To* y, std::int64_t n);

}  // namespace limbeck::kernels
