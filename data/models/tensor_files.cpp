#include "data/models/tensor_files.h"

#include <algorithm>
#include <charconv>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/random_access_file.h"
#include "data/files/xxh3.h"

namespace limbeck::data {

using core::check;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t read_at_once = std::int64_t{1} << 22U;

std::int64_t size_of(const fs::path& path) {
  std::error_code error;  // of a file that is not there
  const auto size = fs::file_size(path, error);
  return error ? -1 : static_cast<std::int64_t>(size);
}

/// A line of the journal: a tensor's number and its hash.
std::string line_of(std::int64_t tensor, std::uint64_t hash) { return fmt::format("{} {:016x}\n", tensor, hash); }

/// The hash of a line that is whole and of this tensor; `at` goes behind it.
std::optional<std::uint64_t> hash_in(std::string_view text, std::int64_t tensor, std::size_t& at) {
  const std::size_t end = text.find('\n', at);
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(at, end + 1 - at);
  std::uint64_t hash = 0;
  const std::size_t blank = line.find(' ');
  if (blank == std::string_view::npos) return std::nullopt;
  std::from_chars(line.data() + blank + 1, line.data() + line.size(), hash, 16);
  if (line != line_of(tensor, hash)) return std::nullopt;
  at = end + 1;
  return hash;
}

}  // namespace

struct TensorFiles::Hash : Xxh3 {};

TensorFiles::TensorFiles(std::vector<File> files, const fs::path& journal, const std::string& identity, Notice notice)
    : files_(std::move(files)),
      journal_(journal.string(),
               [&] { core::fail("{}: another process writes it", files_.empty() ? "" : files_[0].path.string()); }),
      hash_(std::make_unique<Hash>()) {
  for (std::size_t file = 0; file < files_.size(); ++file) {
    auto offset = std::ssize(files_[file].head);
    for (std::size_t tensor = 0; tensor < files_[file].tensors.size(); ++tensor) {
      const Tensor& one = files_[file].tensors[tensor];
      check(one.bytes > 0 && one.padding >= 0, "{}: tensor {} has {} bytes", files_[file].path.string(), tensor,
            one.bytes);
      places_.push_back({file, tensor, offset});
      offset += one.bytes + one.padding;
    }
  }
  resume(identity, notice);
}

TensorFiles::~TensorFiles() = default;

std::string TensorFiles::head_line(const std::string& identity) const {
  Xxh3 hash;
  hash.add(identity);
  for (const File& file : files_) {
    hash.add(file.path.filename().string());
    hash.add(file.head);
    for (const Tensor& tensor : file.tensors) hash.add(fmt::format("{} {}\n", tensor.bytes, tensor.padding));
  }
  return fmt::format("limbeck tensors 1 {:016x}\n", hash.value());
}

void TensorFiles::resume(const std::string& identity, const Notice& notice) {
  const auto say = [&](const std::string& line) {
    if (notice) notice(line);
  };
  const std::string text = journal_.text();
  const std::string head = head_line(identity);
  std::size_t kept = head.size();
  if (text.starts_with(head)) {
    std::size_t end = kept;
    for (auto hash = hash_in(text, 0, end); hash && next_ < num_tensors(); hash = hash_in(text, next_, end)) {
      if (!holds(next_, *hash)) break;
      ++next_;
      kept = end;
    }
    journal_.keep(kept);
    say(fmt::format("going on where it was interrupted: {} of {} tensors are there", next_, num_tensors()));
  } else {
    if (!text.empty()) say(fmt::format("{}: is of another model or other options: beginning anew", journal_.path()));
    journal_.begin(head);
  }
  // A file behind the place is of nothing that is known.
  const std::size_t going_on = next_ < num_tensors() ? places_[static_cast<std::size_t>(next_)].file : files_.size();
  std::error_code ignored;
  for (std::size_t file = going_on + 1; file < files_.size(); ++file) fs::remove(files_[file].path, ignored);
}

/// Whether a tensor, its padding, and if it is its file's first the head, lie in the file as they are to be.
bool TensorFiles::holds(std::int64_t tensor, std::uint64_t hash) const {
  const Place& place = places_[static_cast<std::size_t>(tensor)];
  const File& file = files_[place.file];
  const Tensor& one = at(tensor);
  if (size_of(file.path) < place.offset + one.bytes + one.padding) return false;
  const RandomAccessFile stored(file.path);
  std::vector<std::byte> bytes;
  const auto read = [&](std::int64_t first, std::int64_t count) {
    bytes.resize(static_cast<std::size_t>(count));
    stored.read(first, bytes);
    return std::span<const std::byte>(bytes);
  };
  if (place.tensor == 0 && !std::ranges::equal(read(0, std::ssize(file.head)), std::as_bytes(std::span(file.head))))
    return false;
  Xxh3 found;
  for (std::int64_t first = 0; first < one.bytes; first += read_at_once)
    found.add(read(place.offset + first, std::min(read_at_once, one.bytes - first)));
  return found.value() == hash && std::ranges::all_of(read(place.offset + one.bytes, one.padding),
                                                      [](std::byte b) { return b == std::byte{0}; });
}

void TensorFiles::open_next() {
  const Place& place = places_[static_cast<std::size_t>(next_)];
  const File& file = files_[place.file];
  output_.emplace(file.path, place.tensor == 0 ? 0 : place.offset);
  if (place.tensor == 0) output_->write(file.head);
}

void TensorFiles::write(std::span<const std::byte> bytes) {
  check(next_ < num_tensors(), "{}: all of its {} tensors are written", journal_.path(), num_tensors());
  const Tensor& tensor = at(next_);
  check(std::ssize(bytes) <= tensor.bytes - written_, "{}: tensor {} of {} bytes was given {}", journal_.path(), next_,
        tensor.bytes, written_ + std::ssize(bytes));
  if (!output_) open_next();
  output_->write(bytes.data(), bytes.size());
  hash_->add(bytes);
  written_ += std::ssize(bytes);
  if (written_ == tensor.bytes) end_tensor();
}

void TensorFiles::end_tensor() {
  const std::string zeros(static_cast<std::size_t>(at(next_).padding), '\0');
  output_->write(zeros);
  output_->flush();
  journal_.append(line_of(next_, hash_->value()), JournalFile::Sync::No);
  hash_->reset();
  written_ = 0;
  const std::size_t file = places_[static_cast<std::size_t>(next_)].file;
  if (++next_ < num_tensors() && places_[static_cast<std::size_t>(next_)].file == file) return;
  output_->sync();
  output_->close();
  output_.reset();
}

void TensorFiles::close() {
  check(next_ == num_tensors(), "{}: {} of {} tensors were written", journal_.path(), next_, num_tensors());
  for (const File& file : files_) sync_path(file.path);  // what a process before wrote, too
}

void TensorFiles::discard() {
  output_.reset();
  std::error_code ignored;
  for (const File& file : files_) fs::remove(file.path, ignored);
  journal_.remove();
}

}  // namespace limbeck::data
