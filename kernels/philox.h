// Counter-based random numbers (Philox 4x32-10; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), for
// kernels and for core/random.h.
//
//     PhiloxStream stream{key, stream_number};
//     double u = stream.uniform(global_index);      // a pure function of key, stream and index
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace limbeck::kernels {

/// Ten rounds of Philox 4x32.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32U) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32U) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9U;
    k[1] += 0xBB67AE85U;
  }
  return c;
}

struct PhiloxStream {
  std::array<std::uint32_t, 2> key;
  std::uint64_t stream;

  /// 128 random bits of this index.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t index) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32U),
                   static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32U)},
                  key);
  }
  /// In [0, 1), 53 bits.
  constexpr double uniform(std::uint64_t index) const {
    const auto b = block(index);
    return to_unit(b[0], b[1]);
  }
  /// Standard normal (Box-Muller over the index's own 128 bits).
  double normal(std::uint64_t index) const {
    const auto b = block(index);
    return std::sqrt(-2 * std::log1p(-to_unit(b[0], b[1]))) * std::cos(2 * std::numbers::pi * to_unit(b[2], b[3]));
  }
  static constexpr double to_unit(std::uint32_t high, std::uint32_t low) {
    return static_cast<double>(((std::uint64_t{high} << 32U) | low) >> 11U) * 0x1.0p-53;
  }
};

}  // namespace limbeck::kernels
