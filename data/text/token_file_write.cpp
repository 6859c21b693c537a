#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/system_error.h"
#include "data/files/atomic_file.h"
#include "data/files/output_file.h"
#include "data/files/xxh3.h"
#include "data/text/token_file.h"
#include "data/text/token_file_format.h"

namespace limbeck::data {

using core::check;
using core::check_system;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t uint16_below = 65500;
constexpr std::int64_t length_bytes = sizeof(std::int32_t);

bool is_narrow(std::int64_t vocabulary_size) { return vocabulary_size < uint16_below; }
std::int64_t token_bytes(std::int64_t vocabulary_size) { return is_narrow(vocabulary_size) ? 2 : 4; }

std::string partial(const std::string& prefix, const char* extension) { return prefix + extension + ".partial"; }

bool has_bytes(const std::string& path, std::int64_t bytes) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  return !error && size >= static_cast<std::uintmax_t>(bytes);
}

void rename(const std::string& from, const std::string& to) {
  check_system(std::rename(from.c_str(), to.c_str()) == 0, "{}: cannot be renamed to {}", from, to);
}

/// Of bytes as they come.
class Hash : private Xxh3 {
 public:
  using Xxh3::value;
  void add(const void* data, std::size_t bytes) { Xxh3::add({static_cast<const std::byte*>(data), bytes}); }
  /// The first bytes of a file that has as many.
  void add_file(const std::string& path, std::int64_t bytes) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
    check_system(file != nullptr, "{}: cannot be read", path);
    std::vector<char> buffer(1U << 20U);
    while (bytes > 0) {
      const auto part = static_cast<std::size_t>(std::min<std::int64_t>(bytes, 1 << 20));
      check_system(std::fread(buffer.data(), 1, part, file.get()) == part, "{}: cannot be read", path);
      add(buffer.data(), part);
      bytes -= static_cast<std::int64_t>(part);
    }
  }
};

std::uint64_t digest_of(const Hash& tokens, const Hash& lengths, const Hash* mask) {
  const std::array<std::uint64_t, 3> all = {tokens.value(), lengths.value(), mask == nullptr ? 0 : mask->value()};
  return XXH3_64bits(all.data(), (mask == nullptr ? 2 : 3) * sizeof all[0]);
}

}  // namespace

/// A partial file and the hash of what is in it.
struct TokenFileWriter::Part {
  Part(const std::string& path, std::int64_t from) : file(path, from) { hash.add_file(path, from); }
  void write(const void* data, std::size_t bytes) {
    file.write(data, bytes);
    hash.add(data, bytes);
  }

  OutputFile file;
  Hash hash;
};

TokenFileWriter::TokenFileWriter(const std::string& prefix, std::int64_t vocabulary_size, const TokenFileSize& from,
                                 bool has_mask)
    : prefix_(token_file_prefix(prefix)), vocabulary_size_(vocabulary_size), size_(from) {
  check(vocabulary_size > 0 && vocabulary_size <= std::numeric_limits<std::int32_t>::max(),
        "{}: the vocabulary size is {}, expected 1 to 2^31 - 1", prefix, vocabulary_size);
  const auto folder = fs::path(prefix_).parent_path();
  if (!folder.empty()) make_folder(folder);
  is_kept_ = from.documents > 0;
  tokens_ = std::make_unique<Part>(partial(prefix_, ".bin"), from.tokens * token_bytes(vocabulary_size));
  lengths_ = std::make_unique<Part>(partial(prefix_, ".idx"), from.documents * length_bytes);
  if (has_mask) mask_ = std::make_unique<Part>(partial(prefix_, ".mask"), from.tokens);
}

TokenFileWriter::~TokenFileWriter() {
  if (is_kept_) return;
  for (const auto& part : {tokens_.get(), lengths_.get(), mask_.get()})
    if (part != nullptr) std::remove(part->file.path().c_str());
}

bool TokenFileWriter::can_continue(const std::string& prefix, std::int64_t vocabulary_size, const TokenFileSize& from,
                                   std::uint64_t digest, bool has_mask) {
  const std::string name = token_file_prefix(prefix);
  const std::string tokens = partial(name, ".bin"), lengths = partial(name, ".idx");
  const std::int64_t num_tokens = from.tokens * token_bytes(vocabulary_size);
  const std::int64_t num_lengths = from.documents * length_bytes;
  const std::string mask = partial(name, ".mask");
  if (!has_bytes(tokens, num_tokens) || !has_bytes(lengths, num_lengths)) return false;
  if (has_mask && !has_bytes(mask, from.tokens)) return false;
  Hash hash_of_tokens, hash_of_lengths, hash_of_mask;
  if (has_mask) hash_of_mask.add_file(mask, from.tokens);
  hash_of_tokens.add_file(tokens, num_tokens);
  hash_of_lengths.add_file(lengths, num_lengths);
  return digest_of(hash_of_tokens, hash_of_lengths, has_mask ? &hash_of_mask : nullptr) == digest;
}

std::uint64_t TokenFileWriter::digest() const {
  check(tokens_ != nullptr, "{}.bin: was asked for a digest after the end", prefix_);
  return digest_of(tokens_->hash, lengths_->hash, mask_ == nullptr ? nullptr : &mask_->hash);
}

void TokenFileWriter::add(std::span<const std::int32_t> document, std::span<const std::uint8_t> is_target) {
  check(tokens_ != nullptr, "{}.bin: a document was added after the end", prefix_);
  check(document.size() <= std::numeric_limits<std::int32_t>::max(), "{}.bin: a document has {} tokens", prefix_,
        document.size());
  for (const auto id : document)
    check(id >= 0 && id < vocabulary_size_, "{}.bin: token {} is outside the vocabulary of {}", prefix_, id,
          vocabulary_size_);
  check(is_target.size() == (mask_ == nullptr ? 0 : document.size()), "{}.mask: {} bytes for a document of {} tokens{}",
        prefix_, is_target.size(), document.size(), mask_ == nullptr ? " of a file without a mask" : "");
  if (mask_ != nullptr) mask_->write(is_target.data(), is_target.size());
  if (is_narrow(vocabulary_size_)) {
    const std::vector<std::uint16_t> narrow(document.begin(), document.end());
    tokens_->write(narrow.data(), narrow.size() * 2);
  } else {
    tokens_->write(document.data(), document.size() * 4);
  }
  const auto length = static_cast<std::int32_t>(document.size());
  lengths_->write(&length, sizeof length);
  ++size_.documents;
  size_.tokens += length;
}

void TokenFileWriter::flush() {
  check(tokens_ != nullptr, "{}.bin: was flushed after the end", prefix_);
  tokens_->file.sync();
  lengths_->file.sync();
  if (mask_ != nullptr) mask_->file.sync();
  is_kept_ = true;
}

void TokenFileWriter::write_index(const std::string& path) const {
  const MappedFile lengths(lengths_->file.path());  // too many for the memory, perhaps
  OutputFile index(path);
  const std::uint8_t code = is_narrow(vocabulary_size_) ? token_index::code_uint16 : token_index::code_int32;
  const auto put = [&](auto value) { index.write(&value, sizeof value); };
  index.write(token_index::magic.data(), token_index::magic.size());
  put(std::uint64_t{1});  // version
  put(code);
  put(size_.documents);
  put(size_.documents + 1);
  index.write(lengths.bytes().data(), lengths.bytes().size());
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < size_.documents; ++i) {
    put(at);
    std::int32_t length = 0;
    std::memcpy(&length, lengths.bytes().data() + i * length_bytes, sizeof length);
    at += length * token_bytes(vocabulary_size_);
  }
  for (std::int64_t bound = 0; bound <= size_.documents; ++bound) put(bound);
  index.sync();
  index.close();
}

void TokenFileWriter::finish() {
  check(tokens_ != nullptr, "{}.bin: was finished twice", prefix_);
  tokens_->file.sync();
  lengths_->file.sync();
  if (mask_ != nullptr) mask_->file.sync();
  const std::string index = prefix_ + ".idx.tmp";
  try {
    write_index(index);
    // An old index must never stand beside new tokens.
    std::remove((prefix_ + ".idx").c_str());
    std::remove((prefix_ + ".mask").c_str());
    rename(tokens_->file.path(), prefix_ + ".bin");
    if (mask_ != nullptr) rename(mask_->file.path(), prefix_ + ".mask");
    rename(index, prefix_ + ".idx");
  } catch (...) {
    std::remove(index.c_str());
    throw;
  }
  std::remove(lengths_->file.path().c_str());
  tokens_.reset();
  lengths_.reset();
  mask_.reset();
  const fs::path folder = fs::path(prefix_).parent_path();
  sync_path(folder.empty() ? "." : folder);
}

}  // namespace limbeck::data
