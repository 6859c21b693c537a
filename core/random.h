// Counter-based random numbers (kernels/philox.h). A number is a pure function of seed, step, name and a global index,
// so it depends on no layout and a replay sees it again.
//
//     RandomStream r(seed, step, "layers.3.moe.router.weight");
//     double z = r.normal(global_element_index);
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "kernels/philox.h"

namespace limbeck::core {

/// FNV-1a: the same on every machine. `seed` may be the hash of what came before.
inline constexpr std::uint64_t hash_seed = 0xcbf29ce484222325ULL;
constexpr std::uint64_t hash_name(std::string_view name, std::uint64_t seed = hash_seed) {
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return seed;
}

class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::uint64_t step, std::string_view name);

  /// 64 random bits of this index.
  std::uint64_t bits(std::uint64_t index) const;
  /// In [0, 1), 53 bits.
  double uniform(std::uint64_t index) const { return stream_.uniform(index); }
  /// Standard normal (Box-Muller over the index's own 128 bits).
  double normal(std::uint64_t index) const { return stream_.normal(index); }
  /// In [0, n), n > 0; the bias is below n / 2^64.
  std::uint64_t below(std::uint64_t index, std::uint64_t n) const;

  /// The same numbers for a kernel.
  const kernels::PhiloxStream& stream() const { return stream_; }

 private:
  kernels::PhiloxStream stream_;
};

}  // namespace limbeck::core
