#include "core/random.h"

namespace limbeck::core {
namespace {

__extension__ using Wide = unsigned __int128;

}  // namespace

RandomStream::RandomStream(std::uint64_t seed, std::uint64_t step, std::string_view name)
    : stream_{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U)},
              hash_name(name, hash_seed ^ (step * 0x9E3779B97F4A7C15ULL))} {}

std::uint64_t RandomStream::bits(std::uint64_t index) const {
  const auto b = stream_.block(index);
  return (std::uint64_t{b[0]} << 32U) | b[1];
}

std::uint64_t RandomStream::below(std::uint64_t index, std::uint64_t n) const {
  return static_cast<std::uint64_t>((static_cast<Wide>(bits(index)) * n) >> 64U);
}

}  // namespace limbeck::core
