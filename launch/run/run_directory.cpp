#include "launch/run/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "data/files/atomic_file.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using core::check;
using core::fail_usage;

namespace {

constexpr const char* lock_name = "run.lock";

/// Whether there is nothing but what a run that never began leaves, and who launched it.
bool is_unused(const fs::path& folder) {
  return std::all_of(fs::directory_iterator(folder), fs::directory_iterator(), [](const fs::directory_entry& entry) {
    const fs::path name = entry.path().filename();
    return name == lock_name || name == "config.textproto.tmp" || name == "ranks" || name == "launches.jsonl" ||
           (name == "checkpoints" && fs::is_empty(entry.path()));
  });
}

}  // namespace

void RunDirectory::check_usable(const fs::path& folder, bool resume) {
  if (is_unused(folder)) return;
  if (!resume)
    fail_usage("{}: this run directory is not empty, expected --resume to continue it or another --out",
               folder.string());
  if (!RunDirectory::is_run(folder))
    fail_usage("{}: this folder is not empty and no run directory, expected one that --resume can continue",
               folder.string());
}

namespace {

/// False where another has it. One who only looks has it for an instant: that is waited for.
bool take(const data::FileLock& lock) {
  for (int attempt = 0; attempt < 20; ++attempt) {
    if (lock.take()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

void RunDirectory::take_lock() {
  const fs::path file = path_ / lock_name;
  const auto lock = std::make_shared<const data::FileLock>(file);
  check(take(*lock), "{}: another process has locked it: a run is going on in this run directory", file.string());
  lock_ = lock;
}

RunDirectory RunDirectory::open(const RunConfig& config, bool resume) {
  RunDirectory run(config.output.dir);
  std::error_code error;
  fs::create_directories(run.path_, error);
  if (error || !fs::is_directory(run.path_))
    fail_usage("{}: this run directory cannot be made: {}", run.path_.string(),
               error ? error.message() : "there is a file of this name");
  check_usable(run.path_, resume);  // before the lock too, which would be a trace in a folder of something else
  run.take_lock();
  check_usable(run.path_, resume);
  return run;
}

bool RunDirectory::make_whole(const RunConfig& config) {
  if (lock_->is_there() && fs::exists(this->config()) && fs::exists(metrics()) && fs::exists(checkpoints()))
    return false;
  data::make_folder(path_);
  if (!lock_->is_there()) take_lock();
  check(!fs::exists(this->config()) || load_config(this->config()) == config,
        "{}: holds another run now, expected this one's, which began here", path_.string());
  write_config(config);
  return true;
}

void RunDirectory::write_config(const RunConfig& config) const {
  data::make_folder(checkpoints());
  data::make_folder(ranks());
  data::write_file_atomically(this->config(), to_textproto(config));
}

bool RunDirectory::is_in_use() const {
  const int file = ::open((path_ / lock_name).c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool is_free = ::flock(file, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK;
  ::close(file);
  return !is_free;
}

bool RunDirectory::is_run(const fs::path& path) {
  const RunDirectory run(path);
  return fs::is_regular_file(run.config()) && fs::is_directory(run.checkpoints());
}

}  // namespace limbeck::launch
