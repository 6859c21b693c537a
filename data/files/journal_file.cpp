#include "data/files/journal_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/system_error.h"
#include "data/files/atomic_file.h"

namespace limbeck::data {

using core::check_system;

JournalFile::JournalFile(std::string path, const std::function<void()>& on_busy) : path_(std::move(path)) {
  while (true) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    check_system(descriptor_ >= 0, "{}: cannot be written", path_);
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      try {
        on_busy();
      } catch (...) {
        ::close(descriptor_);
        throw;
      }
      while (::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
      }
    }  // else there are no locks on this file system
    // The process before may have removed the file.
    struct stat mine {
    }, named{};
    if (::fstat(descriptor_, &mine) == 0 && ::stat(path_.c_str(), &named) == 0 && mine.st_ino == named.st_ino) return;
    ::close(descriptor_);
  }
}

JournalFile::~JournalFile() { ::close(descriptor_); }

std::string JournalFile::text() const { return read_text_file(path_, std::numeric_limits<std::uintmax_t>::max()); }

void JournalFile::keep(std::size_t bytes) {
  check_system(::ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0, "{}: cannot be written", path_);
}

void JournalFile::begin(const std::string& line) {
  keep(0);
  append(line, Sync::Yes);
}

void JournalFile::append(const std::string& line, Sync sync) {
  for (std::string_view rest = line; !rest.empty();) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    check_system(written > 0, "{}: cannot be written", path_);
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  check_system(sync == Sync::No || ::fdatasync(descriptor_) == 0, "{}: cannot be written", path_);
}

void JournalFile::remove() { std::remove(path_.c_str()); }

}  // namespace limbeck::data
