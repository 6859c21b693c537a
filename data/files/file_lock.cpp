#include "data/files/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/system_error.h"

namespace limbeck::data {

FileLock::FileLock(const std::filesystem::path& path)
    : path_(path), file_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  core::check_system(file_ >= 0, "{}: cannot be opened", path.string());
}

FileLock::~FileLock() { ::close(file_); }

bool FileLock::take(Kind kind) const {
  return ::flock(file_, (kind == Kind::Shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

void FileLock::wait() const {
  while (::flock(file_, LOCK_EX) != 0 && errno == EINTR) {
  }
}

bool FileLock::is_there() const {
  struct stat mine {
  }, named{};
  return ::fstat(file_, &mine) == 0 && ::stat(path_.c_str(), &named) == 0 && mine.st_dev == named.st_dev &&
         mine.st_ino == named.st_ino;
}

}  // namespace limbeck::data
