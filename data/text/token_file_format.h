// What reader and writer of token files agree on: names and the head of the index. Internal to token_file.
//
//     const std::string prefix = token_file_prefix("data/train.idx");   // "data/train"
//     check(memcmp(bytes, token_index::magic.data(), token_index::magic.size()) == 0, ...);
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace limbeck::data {

/// Without .bin or .idx.
inline std::string token_file_prefix(const std::string& path) {
  return path.ends_with(".bin") || path.ends_with(".idx") ? path.substr(0, path.size() - 4) : path;
}

namespace token_index {

// magic, version (uint64), token type (uint8), number of sequences (uint64), number of document bounds (uint64); then
// lengths (int32) and byte offsets (int64) of the sequences, the documents' bounds in sequences (int64), and in some
// files the modes (int8) of the sequences.
inline constexpr std::array<char, 9> magic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
inline constexpr std::int64_t header_bytes = 9 + 8 + 1 + 8 + 8;
inline constexpr std::uint8_t code_int32 = 4;
inline constexpr std::uint8_t code_uint16 = 8;

}  // namespace token_index
}  // namespace limbeck::data
