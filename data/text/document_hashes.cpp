#include "data/text/document_hashes.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/mapped_file.h"
#include "data/text/documents.h"

namespace limbeck::data {

using core::check;

static_assert(std::endian::native == std::endian::little);

namespace {

constexpr std::string_view first_line = "limbeck training documents 1\n";

void append(std::string& bytes, std::uint64_t value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);  // NOLINT: its bytes
}

}  // namespace

std::uint64_t document_hash(std::span<const std::int32_t> ids, const Tokenizer& tokenizer) {
  const std::span<const std::int32_t> inner = inner_ids(ids, tokenizer);
  return XXH3_64bits(inner.data(), inner.size_bytes());
}

bool DocumentHashes::contains(std::uint64_t hash) const {
  return std::binary_search(hashes.begin(), hashes.end(), hash);
}

void write_document_hashes(const std::filesystem::path& file, const DocumentHashes& documents) {
  std::string bytes(first_line);
  append(bytes, documents.tokenizer);
  append(bytes, documents.hashes.size());
  for (const std::uint64_t hash : documents.hashes) append(bytes, hash);
  write_file_atomically(file, bytes);
}

DocumentHashes read_document_hashes(const std::filesystem::path& file) {
  const MappedFile mapped(file.string());
  std::string_view rest = mapped.text();
  check(rest.starts_with(first_line), "{}: does not begin with \"{}\": not the documents of a run", file.string(),
        first_line.substr(0, first_line.size() - 1));
  rest.remove_prefix(first_line.size());
  const auto number = [&](std::size_t index) {
    std::uint64_t value = 0;
    std::memcpy(&value, rest.data() + index * sizeof value, sizeof value);
    return value;
  };
  check(rest.size() >= 16 && rest.size() % 8 == 0 && number(1) == rest.size() / 8 - 2,
        "{}: has {} bytes after its first line, expected 16 and 8 for each document", file.string(), rest.size());
  DocumentHashes documents{.tokenizer = number(0), .hashes = {}};
  documents.hashes.resize(rest.size() / 8 - 2);
  for (std::size_t i = 0; i < documents.hashes.size(); ++i) {
    documents.hashes[i] = number(i + 2);
    check(i == 0 || documents.hashes[i - 1] < documents.hashes[i], "{}: hash {} is not above the one before it",
          file.string(), i);
  }
  return documents;
}

}  // namespace limbeck::data
