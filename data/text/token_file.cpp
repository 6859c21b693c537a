#include "data/text/token_file.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/text/token_file_format.h"

namespace limbeck::data {

using core::check;

namespace {

template <class T>
T load(std::span<const std::byte> bytes, std::int64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// The token types by their number in the index; floating-point ones hold no tokens.
struct TokenType {
  const char* name;
  std::int64_t bytes;
  bool is_integer = true;
};
constexpr std::array<TokenType, 8> token_types = {{{"uint8", 1},
                                                   {"int8", 1},
                                                   {"int16", 2},
                                                   {"int32", 4},
                                                   {"int64", 8},
                                                   {"float64", 8, false},
                                                   {"float32", 4, false},
                                                   {"uint16", 2}}};

const TokenType& type_of(std::uint8_t code) { return token_types.at(code - 1U); }

/// Whether all of them are 32-bit integers.
template <class T>
bool widen(const std::byte* from, std::int64_t count, std::int32_t* out) {
  bool fits = true;
  for (std::int64_t i = 0; i < count; ++i) {
    T id;
    std::memcpy(&id, from + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    out[i] = static_cast<std::int32_t>(id);
    if constexpr (sizeof(T) > sizeof(std::int32_t)) fits = fits && out[i] == id;
  }
  return fits;
}

bool widen(std::uint8_t code, const std::byte* from, std::int64_t count, std::int32_t* out) {
  switch (code) {
    case 1:
      return widen<std::uint8_t>(from, count, out);
    case 2:
      return widen<std::int8_t>(from, count, out);
    case 3:
      return widen<std::int16_t>(from, count, out);
    case token_index::code_int32:
      return widen<std::int32_t>(from, count, out);
    case token_index::code_uint16:
      return widen<std::uint16_t>(from, count, out);
    default:
      return widen<std::int64_t>(from, count, out);
  }
}

}  // namespace

TokenFile::TokenFile(const std::string& prefix) : prefix_(token_file_prefix(prefix)) {
  const MappedFile index(prefix_ + ".idx");
  tokens_ = std::make_unique<MappedFile>(prefix_ + ".bin");
  read_index(index);
  const std::string mask = prefix_ + ".mask";
  if (!std::filesystem::exists(mask)) return;
  mask_ = std::make_unique<MappedFile>(mask);
  check(static_cast<std::int64_t>(mask_->bytes().size()) == num_tokens(),
        "{}: has {} bytes, expected one for each of the {} tokens", mask, mask_->bytes().size(), num_tokens());
}

void TokenFile::read_index(const MappedFile& index) {
  const auto bytes = index.bytes();
  const std::string& path = index.path();
  const auto size = static_cast<std::int64_t>(bytes.size());
  refuse_other_kind(path, index.text(), "the index of a token file");
  using namespace token_index;
  check(size >= header_bytes, "{}: has {} bytes, expected a token index of at least {}", path, size, header_bytes);
  check(std::memcmp(bytes.data(), magic.data(), magic.size()) == 0,
        "{}: does not start with MMIDIDX: not a token index", path);
  const auto version = load<std::uint64_t>(bytes, 9);
  check(version == 1, "{}: has version {}, expected 1", path, version);
  token_code_ = load<std::uint8_t>(bytes, 17);
  check(token_code_ >= 1 && token_code_ <= token_types.size() && type_of(token_code_).is_integer,
        "{}: token type has code {}, expected an integer's: 1 to 5 or 8", path, token_code_);
  const std::int64_t token_bytes = type_of(token_code_).bytes;
  const auto num_sequences = load<std::int64_t>(bytes, 18);
  const auto num_bounds = load<std::int64_t>(bytes, 26);  // documents and one
  const std::int64_t most = (size - header_bytes) / 8;
  const bool is_possible = num_sequences >= 0 && num_sequences <= most && num_bounds >= 1 && num_bounds <= most;
  const std::int64_t modes = is_possible ? header_bytes + num_sequences * 12 + num_bounds * 8 : 0;
  check(is_possible && (size == modes || size == modes + num_sequences),
        "{}: has {} bytes, expected as many as its {} sequences and {} document bounds take: {}", path, size,
        num_sequences, num_bounds, is_possible ? fmt::format("{} or {}", modes, modes + num_sequences) : "no number");
  for (std::int64_t i = 0; i < size - modes; ++i) {  // of files for several kinds of input; 0 is text
    const auto mode = load<std::int8_t>(bytes, modes + i);
    check(mode == 0, "{}: sequence {} has mode {}, expected 0 (text)", path, i, mode);
  }
  num_sequences_ = num_sequences;

  const auto token_file_bytes = static_cast<std::int64_t>(tokens_->bytes().size());
  const std::int64_t pointers = header_bytes + num_sequences * 4;
  const std::int64_t bounds = pointers + num_sequences * 8;
  std::vector<std::int64_t> sequence_starts = {0};
  for (std::int64_t i = 0; i < num_sequences; ++i) {
    const auto length = load<std::int32_t>(bytes, header_bytes + i * 4);
    const auto pointer = load<std::int64_t>(bytes, pointers + i * 8);
    check(length >= 0 && pointer == sequence_starts.back() * token_bytes &&
              length <= (token_file_bytes - pointer) / token_bytes,
          "{}: sequence {} has {} tokens at byte {}, expected them at byte {} of {}.bin with {} bytes", path, i, length,
          pointer, sequence_starts.back() * token_bytes, prefix_, token_file_bytes);
    sequence_starts.push_back(sequence_starts.back() + length);
  }
  check(sequence_starts.back() * token_bytes == token_file_bytes, "{}.bin: has {} bytes, expected {} for {} tokens",
        prefix_, token_file_bytes, sequence_starts.back() * token_bytes, sequence_starts.back());
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < num_bounds; ++i) {
    const auto bound = load<std::int64_t>(bytes, bounds + i * 8);
    check(bound >= last && bound <= num_sequences && (i > 0 || bound == 0) &&
              (i + 1 < num_bounds || bound == num_sequences),
          "{}: document bound {} is {}, expected a rising number from 0 to {}", path, i, bound, num_sequences);
    document_starts_.push_back(sequence_starts[bound]);
    last = bound;
  }
}

const char* TokenFile::token_type() const { return type_of(token_code_).name; }

void TokenFile::read(std::int64_t document, std::int64_t first, std::int64_t count, std::int32_t* out) const {
  check(document >= 0 && document < num_documents() && first >= 0 && count >= 0 &&
            first <= document_length(document) - count,
        "{}: tokens {} to {} of document {} were asked for, there are {} documents", prefix_, first, first + count,
        document, num_documents());
  if (count == 0) return;
  const std::byte* from = tokens_->bytes().data() + (document_starts_[document] + first) * type_of(token_code_).bytes;
  check(widen(token_code_, from, count, out), "{}.bin: document {} holds a token that is no 32-bit integer", prefix_,
        document);
}

std::uint64_t TokenFile::fingerprint() const {
  constexpr std::size_t all_below = std::size_t{64} << 20U;
  constexpr std::size_t num_samples = 1024;
  constexpr std::size_t sample = all_below / num_samples;
  std::uint64_t h = XXH3_64bits(document_starts_.data(), document_starts_.size() * sizeof(std::int64_t));
  for (const auto* file : {tokens_.get(), mask_.get()}) {
    if (file == nullptr) continue;
    const auto bytes = file->bytes();
    if (bytes.size() <= all_below) {
      h = XXH3_64bits_withSeed(bytes.data(), bytes.size(), h);
      continue;
    }
    for (std::size_t i = 0; i < num_samples; ++i)
      h = XXH3_64bits_withSeed(bytes.data() + (bytes.size() - sample) * i / (num_samples - 1), sample, h);
  }
  return h;
}

std::span<const std::uint8_t> TokenFile::mask(std::int64_t document, std::int64_t first, std::int64_t count) const {
  check(mask_ != nullptr && document >= 0 && document < num_documents() && first >= 0 && count >= 0 &&
            first <= document_length(document) - count,
        "{}: the mask of tokens {} to {} of document {} was asked for, there are {} documents", prefix_, first,
        first + count, document, num_documents());
  const auto* from = reinterpret_cast<const std::uint8_t*>(mask_->bytes().data()) + document_starts_[document] + first;
  const std::span<const std::uint8_t> part(from, static_cast<std::size_t>(count));
  check(std::all_of(part.begin(), part.end(), [](std::uint8_t value) { return value <= 1; }),
        "{}.mask: document {} has a byte that is neither 0 nor 1", prefix_, document);
  return part;
}

std::vector<std::uint8_t> TokenFile::read_mask(std::int64_t document) const {
  const auto part = mask(document, 0, document_length(document));
  return {part.begin(), part.end()};
}

std::vector<std::int32_t> TokenFile::read(std::int64_t document) const {
  check(document >= 0 && document < num_documents(), "{}: document {} was asked for, there are {}", prefix_, document,
        num_documents());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(document_length(document)));
  read(document, 0, static_cast<std::int64_t>(ids.size()), ids.data());
  return ids;
}

}  // namespace limbeck::data
