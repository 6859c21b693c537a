#include "data/token_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"

namespace limbeck::data {

using core::check;

namespace {

constexpr std::array<char, 9> magic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr std::uint8_t code_int32 = 4;
constexpr std::uint8_t code_uint16 = 8;
constexpr std::int64_t uint16_below = 65500;
constexpr std::int64_t header_bytes = 9 + 8 + 1 + 8 + 8;

std::string without_extension(const std::string& path) {
  return path.ends_with(".bin") || path.ends_with(".idx") ? path.substr(0, path.size() - 4) : path;
}

template <class T>
T load(std::span<const std::byte> bytes, std::int64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

void write(std::FILE* file, const void* data, std::size_t bytes, const std::string& path) {
  check(bytes == 0 || std::fwrite(data, 1, bytes, file) == bytes, "{}: cannot be written: {}", path,
        std::strerror(errno));
}

std::FILE* create(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  check(file != nullptr, "{}: cannot be made: {}", path, std::strerror(errno));
  return file;
}

void close_safely(std::FILE*& file, const std::string& path) {
  const bool is_flushed = std::fflush(file) == 0 && ::fsync(::fileno(file)) == 0;
  const int error = errno;
  std::fclose(file);
  file = nullptr;
  check(is_flushed, "{}: cannot be flushed to the disk: {}", path, std::strerror(error));
}

void rename(const std::string& from, const std::string& to) {
  check(std::rename(from.c_str(), to.c_str()) == 0, "{}: cannot be renamed to {}: {}", from, to, std::strerror(errno));
}

std::string temporary(const std::string& prefix, const char* extension) {
  return fmt::format("{}{}.{}.tmp", prefix, extension, ::getpid());
}

}  // namespace

TokenFile::TokenFile(const std::string& prefix) : prefix_(without_extension(prefix)) {
  const MappedFile index(prefix_ + ".idx");
  tokens_ = std::make_unique<MappedFile>(prefix_ + ".bin");
  read_index(index);
}

void TokenFile::read_index(const MappedFile& index) {
  const auto bytes = index.bytes();
  const std::string& path = index.path();
  const auto size = static_cast<std::int64_t>(bytes.size());
  check(size >= header_bytes, "{}: has {} bytes, expected a token index of at least {}", path, size, header_bytes);
  check(std::memcmp(bytes.data(), magic.data(), magic.size()) == 0,
        "{}: does not start with MMIDIDX: not a token index", path);
  const auto version = load<std::uint64_t>(bytes, 9);
  check(version == 1, "{}: has version {}, expected 1", path, version);
  const auto code = load<std::uint8_t>(bytes, 17);
  check(code == code_uint16 || code == code_int32, "{}: token type has code {}, expected 8 (uint16) or 4 (int32)", path,
        code);
  token_bytes_ = code == code_uint16 ? 2 : 4;
  const auto num_sequences = load<std::int64_t>(bytes, 18);
  const auto num_bounds = load<std::int64_t>(bytes, 26);  // documents and one
  const std::int64_t most = (size - header_bytes) / 8;
  check(num_sequences >= 0 && num_sequences <= most && num_bounds >= 1 && num_bounds <= most &&
            size == header_bytes + num_sequences * 12 + num_bounds * 8,
        "{}: has {} bytes, which do not fit its {} sequences and {} document bounds", path, size, num_sequences,
        num_bounds);

  const auto token_file_bytes = static_cast<std::int64_t>(tokens_->bytes().size());
  const std::int64_t pointers = header_bytes + num_sequences * 4;
  const std::int64_t bounds = pointers + num_sequences * 8;
  std::vector<std::int64_t> sequence_starts = {0};
  for (std::int64_t i = 0; i < num_sequences; ++i) {
    const auto length = load<std::int32_t>(bytes, header_bytes + i * 4);
    const auto pointer = load<std::int64_t>(bytes, pointers + i * 8);
    check(length >= 0 && pointer == sequence_starts.back() * token_bytes_ &&
              length <= (token_file_bytes - pointer) / token_bytes_,
          "{}: sequence {} has {} tokens at byte {}, expected them at byte {} of {}.bin with {} bytes", path, i, length,
          pointer, sequence_starts.back() * token_bytes_, prefix_, token_file_bytes);
    sequence_starts.push_back(sequence_starts.back() + length);
  }
  check(sequence_starts.back() * token_bytes_ == token_file_bytes, "{}.bin: has {} bytes, expected {} for {} tokens",
        prefix_, token_file_bytes, sequence_starts.back() * token_bytes_, sequence_starts.back());
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

void TokenFile::read(std::int64_t document, std::int64_t first, std::int64_t count, std::int32_t* out) const {
  check(document >= 0 && document < num_documents() && first >= 0 && count >= 0 &&
            first <= document_length(document) - count,
        "{}: tokens {} to {} of document {} were asked for, there are {} documents", prefix_, first, first + count,
        document, num_documents());
  if (count == 0) return;
  const std::byte* from = tokens_->bytes().data() + (document_starts_[document] + first) * token_bytes_;
  if (token_bytes_ == 4) {
    std::memcpy(out, from, static_cast<std::size_t>(count) * 4);
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint16_t id = 0;
      std::memcpy(&id, from + i * 2, 2);
      out[i] = id;
    }
  }
}

std::vector<std::int32_t> TokenFile::read(std::int64_t document) const {
  check(document >= 0 && document < num_documents(), "{}: document {} was asked for, there are {}", prefix_, document,
        num_documents());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(document_length(document)));
  read(document, 0, static_cast<std::int64_t>(ids.size()), ids.data());
  return ids;
}

TokenFileWriter::TokenFileWriter(const std::string& prefix, std::int64_t vocabulary_size)
    : prefix_(without_extension(prefix)), vocabulary_size_(vocabulary_size) {
  check(vocabulary_size > 0 && vocabulary_size <= std::numeric_limits<std::int32_t>::max(),
        "{}: the vocabulary size is {}, expected 1 to 2^31 - 1", prefix, vocabulary_size);
  const auto folder = std::filesystem::path(prefix_).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  tokens_ = create(temporary(prefix_, ".bin"));
}

TokenFileWriter::~TokenFileWriter() {
  if (tokens_ == nullptr) return;
  std::fclose(tokens_);
  std::remove(temporary(prefix_, ".bin").c_str());
}

void TokenFileWriter::add(std::span<const std::int32_t> document) {
  const std::string path = prefix_ + ".bin";
  check(tokens_ != nullptr, "{}: a document was added after the end", path);
  check(document.size() <= std::numeric_limits<std::int32_t>::max(), "{}: a document has {} tokens", path,
        document.size());
  for (const auto id : document)
    check(id >= 0 && id < vocabulary_size_, "{}: token {} is outside the vocabulary of {}", path, id, vocabulary_size_);
  if (vocabulary_size_ < uint16_below) {
    const std::vector<std::uint16_t> narrow(document.begin(), document.end());
    write(tokens_, narrow.data(), narrow.size() * 2, path);
  } else {
    write(tokens_, document.data(), document.size() * 4, path);
  }
  lengths_.push_back(static_cast<std::int32_t>(document.size()));
}

void TokenFileWriter::finish() {
  check(tokens_ != nullptr, "{}.bin: was finished twice", prefix_);
  const bool is_narrow = vocabulary_size_ < uint16_below;
  const auto count = static_cast<std::int64_t>(lengths_.size());
  std::vector<std::int64_t> pointers;
  std::vector<std::int64_t> bounds = {0};
  std::int64_t at = 0;
  for (const auto length : lengths_) {
    pointers.push_back(at);
    at += length * (is_narrow ? std::int64_t{2} : std::int64_t{4});
    bounds.push_back(static_cast<std::int64_t>(bounds.size()));
  }
  const std::string index_name = temporary(prefix_, ".idx");
  std::FILE* index = create(index_name);
  const auto put = [&](const void* data, std::size_t bytes) { write(index, data, bytes, index_name); };
  const std::uint64_t version = 1;
  const std::uint8_t code = is_narrow ? code_uint16 : code_int32;
  const std::int64_t num_bounds = count + 1;
  try {
    put(magic.data(), magic.size());
    put(&version, sizeof version);
    put(&code, sizeof code);
    put(&count, sizeof count);
    put(&num_bounds, sizeof num_bounds);
    put(lengths_.data(), lengths_.size() * sizeof lengths_[0]);
    put(pointers.data(), pointers.size() * sizeof pointers[0]);
    put(bounds.data(), bounds.size() * sizeof bounds[0]);
    close_safely(index, index_name);
    close_safely(tokens_, prefix_ + ".bin");
    // An old index must never stand beside new tokens.
    std::remove((prefix_ + ".idx").c_str());
    rename(temporary(prefix_, ".bin"), prefix_ + ".bin");
    rename(index_name, prefix_ + ".idx");
  } catch (...) {
    if (index != nullptr) std::fclose(index);
    std::remove(index_name.c_str());
    std::remove(temporary(prefix_, ".bin").c_str());
    throw;
  }
}

}  // namespace limbeck::data
