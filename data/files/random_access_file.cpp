#include "data/files/random_access_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/system_error.h"

namespace limbeck::data {

using core::check;

RandomAccessFile::RandomAccessFile(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  core::check_system(descriptor_ >= 0, "{}: cannot be opened", path_.string());
}

RandomAccessFile::~RandomAccessFile() { ::close(descriptor_); }

void RandomAccessFile::read(std::int64_t first, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t n = ::pread(descriptor_, to.data(), to.size(), first);
    if (n < 0 && errno == EINTR) continue;
    core::check_system(n >= 0, "{}: cannot be read", path_.string());
    check(n > 0, "{}: ends before byte {}", path_.string(), first + static_cast<std::int64_t>(to.size()));
    to = to.subspan(static_cast<std::size_t>(n));
    first += n;
  }
}

}  // namespace limbeck::data
