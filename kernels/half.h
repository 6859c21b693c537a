// IEEE half precision (binary16), as files hold it; nothing computes in it.
//
//     float x = float_from_half(0x3c00);                  // 1
//     std::uint16_t bits = half_from_float(65504.0F);     // 0x7bff, the largest
#pragma once

#include <bit>
#include <cstdint>

namespace limbeck::kernels {

/// Exact (subnormals, infinities and NaN included).
constexpr float float_from_half(std::uint16_t bits) {
  // The exponent is rebased by a product, which makes subnormals right as well; infinities and NaN lack the float's
  // upper bits of the exponent.
  const std::uint32_t magnitude = (bits & 0x7fffU) << 13U;
  const std::uint32_t infinite = magnitude >= 0x0f800000U ? 0x7f800000U : 0U;
  const auto rebased = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  return std::bit_cast<float>(rebased | infinite | (bits & 0x8000U) << 16U);
}

/// Rounded to nearest, ties to even; beyond the range infinity.
constexpr std::uint16_t half_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16U & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U)
    half = 0x7e00U;  // NaN
  else if (magnitude >= 0x477ff000U)
    half = 0x7c00U;  // 65520 and above
  else if (magnitude < 0x38800000U)
    // Below 2^-14: next to 0.5 a float's spacing is that of the subnormals, 2^-24.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  else
    half = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13U & 1U)) >> 13U;
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace limbeck::kernels
