#include "launch/run/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/error.h"
#include "data/files/atomic_file.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using core::check;
using core::fail_usage;

namespace {

constexpr const char* lock_name = "run.lock";

/// An open file whose lock lasts until it is closed, also by the end of the process.
class FileLock {
 public:
  explicit FileLock(const fs::path& path) : file_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    check(file_ >= 0, "{}: cannot be opened: {}", path.string(), std::strerror(errno));
  }
  ~FileLock() { ::close(file_); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  /// False where another has it. File systems without locks refuse nobody.
  bool take() { return ::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

 private:
  int file_;
};

/// Whether there is nothing but what a run that never began leaves.
bool is_unused(const fs::path& folder) {
  return std::all_of(fs::directory_iterator(folder), fs::directory_iterator(), [](const fs::directory_entry& entry) {
    const fs::path name = entry.path().filename();
    return name == lock_name || name == "config.textproto.tmp" || (name == "checkpoints" && fs::is_empty(entry.path()));
  });
}

}  // namespace

RunDirectory RunDirectory::open(const RunConfig& config, bool resume) {
  RunDirectory run(config.output.dir);
  std::error_code error;
  fs::create_directories(run.path_, error);
  if (error || !fs::is_directory(run.path_))
    fail_usage("{}: this run directory cannot be made: {}", run.path_.string(),
               error ? error.message() : "there is a file of this name");
  if (!is_unused(run.path_)) {
    if (!resume)
      fail_usage("{}: this run directory is not empty, expected --resume to continue it or another --out",
                 run.path_.string());
    if (!is_run(run.path_))
      fail_usage("{}: this folder is not empty and no run directory, expected one that --resume can continue",
                 run.path_.string());
  }
  const fs::path lock_file = run.path_ / lock_name;
  const auto lock = std::make_shared<FileLock>(lock_file);
  check(lock->take(), "{}: another process has locked it: a run is going on in this run directory", lock_file.string());
  run.lock_ = lock;
  return run;
}

void RunDirectory::write_config(const RunConfig& config) const {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  check(!error, "{}: cannot be made: {}", checkpoints().string(), error.message());
  data::write_file_atomically(this->config(), to_textproto(config));
}

bool RunDirectory::is_run(const fs::path& path) {
  const RunDirectory run(path);
  return fs::is_regular_file(run.config()) && fs::is_directory(run.checkpoints());
}

}  // namespace limbeck::launch
