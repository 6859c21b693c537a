// The K largest of each row.
//
//     topk(cpu, probabilities, selection, T, E, K);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// selection [rows, count]: indices of the `count` largest of each row's `width` scores, by falling score, ties to the
/// lower index; NaN counts as the smallest. 1 <= count <= width.
template <class D, class T>
void topk(const D& device, const T* scores, std::int32_t* selection, std::int64_t rows, std::int64_t width,
          std::int64_t count);

}  // namespace limbeck::kernels
