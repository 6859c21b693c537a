// Hashes of 64 bits in JSON: 16 hexadecimal digits, for a number of JSON holds 53 bits.
//
//     json["xxh3"] = hash_text(hash);
//     hash = hash_at(document.at("xxh3"));
#pragma once

#include <charconv>

#include "data/files/json_at.h"

namespace limbeck::data {

inline std::string hash_text(std::uint64_t value) { return fmt::format("{:016x}", value); }

/// Throws, naming the place, for anything else than such a text.
inline std::uint64_t hash_at(const JsonAt& json) {
  const std::string& text = json.text();
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size() || text.size() != 16)
    json.refuse("16 hexadecimal digits");
  return value;
}

}  // namespace limbeck::data
