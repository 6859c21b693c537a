#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/text/token_file.h"
#include "data/text/token_file_format.h"

namespace limbeck::data {

using core::check;
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
  check(std::rename(from.c_str(), to.c_str()) == 0, "{}: cannot be renamed to {}: {}", from, to, std::strerror(errno));
}

}  // namespace

/// A file that is written from some place on.
struct TokenFileWriter::Part {
  Part(const std::string& path_of_part, std::int64_t from) : path(path_of_part) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    check(descriptor >= 0, "{}: cannot be made: {}", path, std::strerror(errno));
    file.reset(::fdopen(descriptor, "wb"));
    const bool is_ready =
        file != nullptr && ::ftruncate(descriptor, from) == 0 && std::fseek(file.get(), from, SEEK_SET) == 0;
    const int error = errno;
    if (file == nullptr) ::close(descriptor);
    check(is_ready, "{}: cannot be written from byte {}: {}", path, from, std::strerror(error));
  }
  void write(const void* data, std::size_t bytes) {
    check(bytes == 0 || std::fwrite(data, 1, bytes, file.get()) == bytes, "{}: cannot be written: {}", path,
          std::strerror(errno));
  }
  void flush() {
    check(std::fflush(file.get()) == 0 && ::fsync(::fileno(file.get())) == 0, "{}: cannot be flushed to the disk: {}",
          path, std::strerror(errno));
  }

  std::string path;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{nullptr, std::fclose};
};

TokenFileWriter::TokenFileWriter(const std::string& prefix, std::int64_t vocabulary_size, const TokenFileSize& from)
    : prefix_(token_file_prefix(prefix)), vocabulary_size_(vocabulary_size), size_(from) {
  check(vocabulary_size > 0 && vocabulary_size <= std::numeric_limits<std::int32_t>::max(),
        "{}: the vocabulary size is {}, expected 1 to 2^31 - 1", prefix, vocabulary_size);
  const auto folder = fs::path(prefix_).parent_path();
  std::error_code error;
  if (!folder.empty()) fs::create_directories(folder, error);
  is_kept_ = from.documents > 0;
  tokens_ = std::make_unique<Part>(partial(prefix_, ".bin"), from.tokens * token_bytes(vocabulary_size));
  lengths_ = std::make_unique<Part>(partial(prefix_, ".idx"), from.documents * length_bytes);
}

TokenFileWriter::~TokenFileWriter() {
  if (is_kept_) return;
  for (const auto& part : {tokens_.get(), lengths_.get()})
    if (part != nullptr) std::remove(part->path.c_str());
}

bool TokenFileWriter::can_continue(const std::string& prefix, std::int64_t vocabulary_size, const TokenFileSize& from) {
  const std::string name = token_file_prefix(prefix);
  return has_bytes(partial(name, ".bin"), from.tokens * token_bytes(vocabulary_size)) &&
         has_bytes(partial(name, ".idx"), from.documents * length_bytes);
}

void TokenFileWriter::add(std::span<const std::int32_t> document) {
  check(tokens_ != nullptr, "{}.bin: a document was added after the end", prefix_);
  check(document.size() <= std::numeric_limits<std::int32_t>::max(), "{}.bin: a document has {} tokens", prefix_,
        document.size());
  for (const auto id : document)
    check(id >= 0 && id < vocabulary_size_, "{}.bin: token {} is outside the vocabulary of {}", prefix_, id,
          vocabulary_size_);
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
  tokens_->flush();
  lengths_->flush();
  is_kept_ = true;
}

void TokenFileWriter::write_index(const std::string& path) const {
  const MappedFile lengths(lengths_->path);  // too many for the memory, perhaps
  Part index(path, 0);
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
  index.flush();
}

void TokenFileWriter::finish() {
  check(tokens_ != nullptr, "{}.bin: was finished twice", prefix_);
  tokens_->flush();
  lengths_->flush();
  const std::string index = prefix_ + ".idx.tmp";
  try {
    write_index(index);
    // An old index must never stand beside new tokens.
    std::remove((prefix_ + ".idx").c_str());
    rename(tokens_->path, prefix_ + ".bin");
    rename(index, prefix_ + ".idx");
  } catch (...) {
    std::remove(index.c_str());
    throw;
  }
  std::remove(lengths_->path.c_str());
  tokens_.reset();
  lengths_.reset();
  const fs::path folder = fs::path(prefix_).parent_path();
  sync_path(folder.empty() ? "." : folder);
}

}  // namespace limbeck::data
