// bfloat16 storage: the upper half of a float32, rounded to nearest even. Arithmetic is done in float32.
#pragma once

#include <bit>
#include <cstdint>

namespace limbeck::kernels {

struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffU) > 0x7f800000U;
    bits = is_nan ? static_cast<std::uint16_t>((u >> 16U) | 0x40U)
                  : static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16U) & 1U)) >> 16U);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }
};
static_assert(sizeof(bf16) == 2);

}  // namespace limbeck::kernels
