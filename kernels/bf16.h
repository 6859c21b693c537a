// bfloat16: the upper half of a float32, rounded to nearest even. A type of storage alone: a kernel over values of type
// T computes in Acc<T>, float32 for bfloat16.
//
//     const auto g = as<Acc<T>>(x[i]);      // exact
//     y[i] = as<T>(g * g);                  // the one rounding
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace limbeck::kernels {

struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  /// Overflows to infinity; a NaN stays one. Without a branch, so that loops over it are vectorised.
  constexpr explicit bf16(float value) : bits(0) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = static_cast<std::int32_t>(u & 0x7fffffffU) > 0x7f800000;
    const std::uint32_t upper = is_nan ? u | 0x400000U : u + 0x7fffU + ((u >> 16U) & 1U);
    bits = static_cast<std::uint16_t>(upper >> 16U);
  }
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }
  constexpr explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};
static_assert(sizeof(bf16) == 2);

/// What a kernel computes and accumulates in where its values are of type T.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

/// x as a To, rounded to nearest even where To is narrower; a double becomes a bfloat16 by way of float32. Loops
/// convert by this: GCC does not vectorise one that makes a bf16 itself.
template <class To, class From>
constexpr To as(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else
    return static_cast<To>(static_cast<Acc<To>>(x));
}

}  // namespace limbeck::kernels
