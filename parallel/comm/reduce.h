// Element-wise reduction of several buffers, always in the order of the buffers: ((x0 + x1) + x2) + ...
//
//     reduce(DType::F32, Reduce::Sum, sources, destinations, count);   // a destination may be one of the sources
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/comm.h"

namespace limbeck::parallel {

/// Writes the reduction of `count` elements of every source to every destination. float32, float64, int64, or bfloat16,
/// which is added up in float32 and rounded once; a NaN is the maximum of anything. A destination is one of the sources or apart from all of them.
void reduce(core::DType dtype, core::Reduce reduction, std::span<const std::byte* const> sources,
            std::span<std::byte* const> destinations, std::int64_t count);

/// Throws, naming `op`, unless the dtype can be reduced.
void check_reducible(const char* op, core::DType dtype);

}  // namespace limbeck::parallel
