// Values that a loop computes in one type and that are wanted in another, or in the same.
//
//     T* to = in_place_or(values, d + first);      // then d[first + j] = as<G>(values[j]), unless G is T
#pragma once

#include <type_traits>

namespace limbeck::kernels {

/// Where values of T are computed that are wanted in `place`: there if it takes them, else in `values`.
template <class T, class G>
T* in_place_or(T* values, G* place) {
  if constexpr (std::is_same_v<G, T>)
    return place;
  else
    return values;
}

}  // namespace limbeck::kernels
