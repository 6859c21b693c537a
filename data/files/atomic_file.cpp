#include "data/files/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/system_error.h"
#include "data/files/file_kind.h"
#include "data/files/output_file.h"

namespace limbeck::data {

using core::check;
using core::check_system;
namespace fs = std::filesystem;

TemporaryFile::TemporaryFile(const fs::path& path) : path_(path), name_(path.string() + ".tmp") {
  check(!fs::is_directory(path), "{}: is a folder, expected a file to write", path.string());
}

TemporaryFile::~TemporaryFile() {
  std::error_code ignored;
  if (!is_kept_) fs::remove(name_, ignored);
}

void TemporaryFile::keep() {
  sync_path(name_);
  check_system(std::rename(name_.c_str(), path_.c_str()) == 0, "{}: cannot be renamed to {}", name_.string(),
               path_.string());
  is_kept_ = true;
  sync_path(path_.has_parent_path() ? path_.parent_path() : ".");
}

void write_file_atomically(const fs::path& path, std::string_view contents) {
  TemporaryFile temporary(path);
  OutputFile file(temporary.name());
  file.write(contents);
  file.close();
  temporary.keep();
}

void sync_path(const fs::path& path) {
  struct Descriptor {
    int number;
    ~Descriptor() {
      if (number >= 0) ::close(number);
    }
  };
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  check_system(file.number >= 0, "{}: cannot be opened", path.string());
  check_system(::fsync(file.number) == 0, "{}: cannot be brought to the disk", path.string());
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "{}: this folder cannot be made: {}", folder.string(), error.message());
}

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
  if (!fs::is_regular_file(path, error)) {
    const std::string_view kind = kind_of_file(path).name;
    core::fail("{}: is {}, expected a file", path.string(), kind.empty() ? "missing" : kind);
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  check_system(file != nullptr, "{}: cannot be read", path.string());
  const std::uintmax_t size = fs::file_size(path, error);
  check(!error && size <= max_bytes, "{}: has {} bytes, expected at most {}", path.string(), size, max_bytes);
  std::string text(size, '\0');
  text.resize(std::fread(text.data(), 1, size, file.get()));
  check_system(std::ferror(file.get()) == 0, "{}: cannot be read", path.string());
  check(text.size() == size, "{}: was shortened while it was read", path.string());
  if (text.starts_with(byte_order_mark)) text.erase(0, byte_order_mark.size());
  return text;
}

}  // namespace limbeck::data
