// Indices that come with the data are checked before they are used as addresses.
//
//     const std::int64_t bad = first_outside(cpu, tokens, T, V);
//     check(bad < 0, "embedding: token {} at position {} ...", tokens[bad], bad);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// Position of the first index that is not in [first, limit), or -1.
template <class D>
std::int64_t first_outside(const D& device, const std::int32_t* index, std::int64_t n, std::int64_t limit,
                           std::int64_t first = 0);

}  // namespace limbeck::kernels
