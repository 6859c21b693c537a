// Logits in descending order by an order of unsigned numbers (kernels/sorted_rows.h), alike on every device.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace limbeck::kernels {

template <class T>
using SortKey = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

/// A logit and where it is from.
template <class T>
struct SortRecord {
  SortKey<T> key;
  std::int32_t column;
};

/// The greater x, the lower its key.
template <class T>
constexpr SortKey<T> sort_key(T x) {
  constexpr auto sign = SortKey<T>{1} << (8 * sizeof(T) - 1);
  const auto bits = std::bit_cast<SortKey<T>>(x);
  return (bits & sign) != 0 ? bits : ~(bits | sign);
}

template <class T>
constexpr T value_of(SortKey<T> key) {
  constexpr auto sign = SortKey<T>{1} << (8 * sizeof(T) - 1);
  return std::bit_cast<T>((key & sign) != 0 ? key : ~(key | sign));
}

/// The slope of |q - p| in q; 0 where it has none. Of the two as they were rounded: a difference might be formed with a
/// product that was not.
constexpr double slope_of_distance(double q, double p) { return q > p ? 1 : q < p ? -1 : 0; }

}  // namespace limbeck::kernels
