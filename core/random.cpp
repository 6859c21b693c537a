#include "core/random.h"

#include <cmath>
#include <numbers>

namespace limbeck::core {
namespace {

__extension__ using Wide = unsigned __int128;

double to_unit(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>(((std::uint64_t{high} << 32U) | low) >> 11U) * 0x1.0p-53;
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
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

RandomStream::RandomStream(std::uint64_t seed, std::uint64_t step, std::string_view name)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U)},
      stream_(hash_name(name, hash_seed ^ (step * 0x9E3779B97F4A7C15ULL))) {}

std::array<std::uint32_t, 4> RandomStream::block(std::uint64_t index) const {
  return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32U),
                 static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32U)},
                key_);
}

std::uint64_t RandomStream::bits(std::uint64_t index) const {
  const auto b = block(index);
  return (std::uint64_t{b[0]} << 32U) | b[1];
}

double RandomStream::uniform(std::uint64_t index) const {
  const auto b = block(index);
  return to_unit(b[0], b[1]);
}

double RandomStream::normal(std::uint64_t index) const {
  const auto b = block(index);
  const double radius = std::sqrt(-2 * std::log1p(-to_unit(b[0], b[1])));
  return radius * std::cos(2 * std::numbers::pi * to_unit(b[2], b[3]));
}

std::uint64_t RandomStream::below(std::uint64_t index, std::uint64_t n) const {
  return static_cast<std::uint64_t>((static_cast<Wide>(bits(index)) * n) >> 64U);
}

}  // namespace limbeck::core
