// XXH3 with 64 bits, of bytes that come piece by piece.
//
//     Xxh3 hash;
//     hash.add(bytes);
//     hash.value();          // as of all of them at once
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace limbeck::data {

class Xxh3 {
 public:
  Xxh3() : state_(XXH3_createState(), XXH3_freeState) { reset(); }
  void reset() { XXH3_64bits_reset(state_.get()); }
  void add(std::span<const std::byte> bytes) { XXH3_64bits_update(state_.get(), bytes.data(), bytes.size()); }
  void add(std::string_view text) { XXH3_64bits_update(state_.get(), text.data(), text.size()); }
  std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

}  // namespace limbeck::data
