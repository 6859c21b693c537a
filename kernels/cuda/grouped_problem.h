// Groups of rows, whose sizes lie on the device.
#pragma once

#include <cstdint>

namespace limbeck::kernels {

/// What both kinds of grouped products have in common. With `groups_are_terms` the sizes of groups are those of sums,
/// and every result is [m,n]; else they are the results' rows, and every sum has k terms.
struct GroupedProblem {
  std::int64_t groups = 0;
  std::int64_t m = 0, n = 0, k = 0;
  const std::int64_t* offsets = nullptr;
  bool groups_are_terms = false;
};

/// The most groups of a product: their table lies in shared memory.
inline constexpr std::int64_t most_groups = 4096;

}  // namespace limbeck::kernels
