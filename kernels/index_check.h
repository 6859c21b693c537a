// Indices that come with the data are checked before they are used as addresses: at once where the host can read them,
// else by the device, which notes the first that is wrong (core/device/index_check.h).
//
//     const std::int64_t bad = first_outside(device, tokens, T, /*first=*/0, V);         // -1: none
//     note_outside(device, tokens, T, 0, V, /*check=*/7, noted);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// Position of the first index that is not in [first, limit), or -1. I is int32 or int64. For the host to read.
template <class I>
std::int64_t first_outside(const I* index, std::int64_t n, std::int64_t first, std::int64_t limit) {
  for (std::int64_t i = 0; i < n; ++i)
    if (index[i] < first || index[i] >= limit) return i;
  return -1;
}

/// What a device has noted: the first check that failed, and its first index.
struct NotedIndex {
  std::int64_t check = -1;  // -1: none failed
  std::int64_t position = 0;
  std::int64_t value = 0;
};

/// The same on the device: writes `check`, position and value into *noted, unless an earlier check has.
template <class D, class I>
void note_outside(const D& device, const I* index, std::int64_t n, std::int64_t first, std::int64_t limit,
                  std::int64_t check, NotedIndex* noted);

}  // namespace limbeck::kernels
