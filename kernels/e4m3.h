// e4m3: 8-bit floating point with 4 bits of exponent (bias 7) and 3 of fraction; neither infinities nor, but for one
// code of each sign, NaN (OCP 8-bit floating point specification, E4M3). A type of storage alone, as bf16.
//
//     const e4m3 code(0.3F);                  // 0.3125
//     const auto x = static_cast<float>(code);
#pragma once

#include <bit>
#include <cstdint>

namespace limbeck::kernels {

struct e4m3 {
  static constexpr float largest = 448;
  std::uint8_t bits;

  e4m3() = default;
  /// Rounded to nearest, ties to even; beyond the largest it, infinity too. A NaN stays one. Without a branch, so that
  /// loops over it are vectorised.
  constexpr explicit e4m3(float value) : bits(0) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = u & 0x7fffffffU;
    // Below 2^-6: next to 2^14 a float's spacing is that of the subnormals, 2^-9.
    const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14F) - 0x46800000U;
    const std::uint32_t normal = (magnitude - 0x3c000000U + 0x7ffffU + (magnitude >> 20U & 1U)) >> 20U;
    const std::uint32_t finite = magnitude >= 0x43e00000U ? 0x7eU : magnitude < 0x3c800000U ? small : normal;
    const bool is_nan = magnitude > 0x7f800000U;
    bits = static_cast<std::uint8_t>(is_nan ? 0x7fU : finite | (u >> 24U & 0x80U));
  }
  /// Exact. Subnormals are a difference of normal floats, for those that the processor takes for 0.
  constexpr explicit operator float() const {
    const std::uint32_t code = bits & 0x7fU;
    const float normal = std::bit_cast<float>((code << 20U) + 0x3c000000U);
    const float small = std::bit_cast<float>((code << 20U) + 0x3c800000U) - 0x1p-6F;
    const std::uint32_t magnitude = code == 0x7fU  ? 0x7fc00000U
                                    : code < 0x08U ? std::bit_cast<std::uint32_t>(small)
                                                   : std::bit_cast<std::uint32_t>(normal);
    return std::bit_cast<float>(magnitude | (bits & 0x80U) << 24U);
  }
};
static_assert(sizeof(e4m3) == 1);

}  // namespace limbeck::kernels
