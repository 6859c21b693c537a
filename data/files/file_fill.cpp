#include "data/files/file_fill.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/system_error.h"

namespace limbeck::data {

using core::check;
using core::check_system;

namespace {

constexpr std::int64_t piece = std::int64_t{1} << 20U;    // stays in a core's cache between the copy and the hash
constexpr std::int64_t window = std::int64_t{32} << 20U;  // goes to the disk while the next one is filled

}  // namespace

FileFill::FileFill(const std::filesystem::path& path, std::stop_token stop)
    : path_(path), stop_(std::move(stop)), file_(path), descriptor_(::open(path.c_str(), O_WRONLY | O_CLOEXEC)) {
  check_system(descriptor_ >= 0, "{}: cannot be written", path_.string());
}

FileFill::~FileFill() { ::close(descriptor_); }

/// Takes what is there up to that byte as it is.
void FileFill::pass_to(std::int64_t end) {
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::clamp<std::int64_t>(end - at_, 0, piece)));
  while (at_ < end) {
    const auto part = std::span(buffer).first(static_cast<std::size_t>(std::min(end - at_, piece)));
    file_.read(at_, part);
    hash_.add(part);
    at_ += std::ssize(part);
  }
}

void FileFill::write_all(std::span<const std::byte> bytes) {
  for (std::int64_t to = at_; !bytes.empty();) {
    const ssize_t n = ::pwrite(descriptor_, bytes.data(), bytes.size(), to);
    if (n < 0 && errno == EINTR) continue;
    check_system(n >= 0, "{}: cannot be written", path_.string());
    to += n;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void FileFill::sync_range(std::int64_t begin, std::int64_t end, unsigned flags) {
  const bool is_done = ::sync_file_range(descriptor_, begin, end - begin, flags) == 0;
  check_system(is_done || errno == ENOSYS, "{}: cannot be brought to the disk", path_.string());
}

/// What was filled since the last time goes to the disk. What went before has arrived, and leaves the page cache to
/// what is read again.
void FileFill::start_window() {
  sync_range(begun_, at_, SYNC_FILE_RANGE_WRITE);
  if (synced_ < begun_) {
    sync_range(synced_, begun_, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    ::posix_fadvise(descriptor_, synced_, begun_ - synced_, POSIX_FADV_DONTNEED);
  }
  synced_ = std::exchange(begun_, at_);
}

void FileFill::put(std::int64_t first, std::span<const std::byte> bytes) {
  check(first >= at_, "{}: values at byte {}, expected {} or more", path_.string(), first, at_);
  pass_to(first);
  while (!bytes.empty()) {
    check(!stop_.stop_requested(), "{}: is left half written", path_.string());
    const auto part = bytes.first(std::min(bytes.size(), static_cast<std::size_t>(piece)));
    write_all(part);
    hash_.add(part);
    at_ += std::ssize(part);
    bytes = bytes.subspan(part.size());
    if (at_ - begun_ >= window) start_window();
  }
}

std::pair<std::int64_t, std::uint64_t> FileFill::finish() {
  pass_to(static_cast<std::int64_t>(std::filesystem::file_size(path_)));
  check_system(::fsync(descriptor_) == 0, "{}: cannot be brought to the disk", path_.string());
  return {at_, hash_.value()};
}

}  // namespace limbeck::data
