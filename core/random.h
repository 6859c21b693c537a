// Counter-based random numbers (Philox 4x32-10; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A
// number is a pure function of seed, step, name and a global index, so it depends on no layout and a replay sees it
// again.
//
//     RandomStream r(seed, step, "layers.3.moe.router.weight");
//     double z = r.normal(global_element_index);
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace limbeck::core {

/// FNV-1a: the same on every machine. `seed` may be the hash of what came before.
inline constexpr std::uint64_t hash_seed = 0xcbf29ce484222325ULL;
constexpr std::uint64_t hash_name(std::string_view name, std::uint64_t seed = hash_seed) {
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return seed;
}

/// Ten rounds of Philox 4x32.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::uint64_t step, std::string_view name);

  /// 64 random bits of this index.
  std::uint64_t bits(std::uint64_t index) const;
  /// In [0, 1), 53 bits.
  double uniform(std::uint64_t index) const;
  /// Standard normal (Box-Muller over the index's own 128 bits).
  double normal(std::uint64_t index) const;
  /// In [0, n), n > 0; the bias is below n / 2^64.
  std::uint64_t below(std::uint64_t index, std::uint64_t n) const;

 private:
  std::array<std::uint32_t, 4> block(std::uint64_t index) const;

  std::array<std::uint32_t, 2> key_;
  std::uint64_t stream_;
};

}  // namespace limbeck::core
