#include "data/files/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "core/error.h"

namespace limbeck::data {

using core::check;
using core::fail;
namespace fs = std::filesystem;

namespace {

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags) : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    check(fd_ >= 0, "{}: cannot be opened: {}", path_.string(), std::strerror(errno));
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  void write(std::string_view contents) {
    while (!contents.empty()) {
      const ssize_t n = ::write(fd_, contents.data(), contents.size());
      if (n < 0 && errno == EINTR) continue;
      check(n > 0, "{}: cannot be written: {}", path_.string(), std::strerror(errno));
      contents.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  void sync() { check(::fsync(fd_) == 0, "{}: cannot be flushed: {}", path_.string(), std::strerror(errno)); }

 private:
  fs::path path_;
  int fd_;
};

}  // namespace

void write_file_atomically(const fs::path& path, std::string_view contents) {
  const fs::path temporary = path.string() + ".tmp";
  {
    FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    file.write(contents);
    file.sync();
  }
  check(std::rename(temporary.c_str(), path.c_str()) == 0, "{}: cannot be renamed to {}: {}", temporary.string(),
        path.string(), std::strerror(errno));
  sync_path(path.has_parent_path() ? path.parent_path() : ".");
}

void sync_path(const fs::path& path) { FileDescriptor(path, O_RDONLY).sync(); }

void replace_folder(const fs::path& finished, const fs::path& name) {
  std::error_code error;
  if (fs::exists(name)) {
    // Exchanged in one step, so that at every instant a whole folder has the name; then the older one has the temporary
    // name and goes. Where the file system cannot exchange, it is moved aside first.
    if (::renameat2(AT_FDCWD, finished.c_str(), AT_FDCWD, name.c_str(), RENAME_EXCHANGE) != 0) {
      const fs::path aside = name.string() + ".old.tmp";
      fs::remove_all(aside, error);
      fs::rename(name, aside, error);
      if (!error) fs::rename(finished, name, error);
      check(!error, "{}: cannot be replaced by {}: {}", name.string(), finished.string(), error.message());
      fs::remove_all(aside, error);
    }
  } else {
    fs::rename(finished, name, error);
    check(!error, "{}: cannot be renamed to {}: {}", finished.string(), name.string(), error.message());
  }
  sync_path(name.has_parent_path() ? name.parent_path() : ".");
  fs::remove_all(finished, error);  // a leftover is ignored by readers and removed by the next writer
}

std::string read_text_file(const fs::path& path, std::uintmax_t max_bytes) {
  std::error_code error;
  check(fs::is_regular_file(path, error), "{}: is missing", path.string());
  const std::uintmax_t size = fs::file_size(path, error);
  check(!error && size <= max_bytes, "{}: has {} bytes, expected at most {}", path.string(), size, max_bytes);
  std::ifstream stream(path, std::ios::binary);
  std::string text(size, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(size));
  check(stream.good() || size == 0, "{}: cannot be read", path.string());
  return text;
}

}  // namespace limbeck::data
