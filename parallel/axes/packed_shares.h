// What a rank sends of its shares of several parameters: one behind the other, each at a multiple of 64 bytes.
//
//     const std::int64_t bytes = for_each_share(parameters, {}, rank, size, [&](std::size_t i, Slice share,
//     std::int64_t at) {...});
#pragma once

#include <algorithm>
#include <optional>

#include "core/parameter.h"
#include "core/share.h"

namespace limbeck::parallel {

/// Up to the next multiple of 64.
inline std::int64_t padded(std::int64_t bytes) {
  constexpr std::int64_t alignment = 64;
  return (bytes + alignment - 1) / alignment * alignment;
}

/// Calls f(index of the parameter, elements of the value that are the rank's share, first byte among what it sends) for
/// each that is not empty; elements are of `dtype`, or of the value's. Returns how many bytes it sends.
template <class F>
std::int64_t for_each_share(const core::ParameterList& parameters, std::optional<core::DType> dtype, int rank, int size,
                            F&& f) {
  std::int64_t at = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const core::Tensor& value = parameters[i]->value;
    const core::Slice share = core::share_of(value.shape(), rank, size);
    if (share.count > 0) f(i, share, at);
    at += padded(core::bytes_of(dtype.value_or(value.dtype()), share.count));
  }
  return at;
}

/// The most that a rank sends.
inline std::int64_t longest_shares(const core::ParameterList& parameters, std::optional<core::DType> dtype, int size) {
  std::int64_t longest = 0;
  for (int r = 0; r < size; ++r)
    longest = std::max(longest, for_each_share(parameters, dtype, r, size, [](auto&&...) {}));
  return longest;
}

}  // namespace limbeck::parallel
