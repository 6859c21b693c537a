#include "launch/run_directory.h"

#include <system_error>

#include "core/error.h"
#include "data/atomic_file.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using core::check;
using core::fail_usage;

RunDirectory RunDirectory::open(const RunConfig& config, bool resume) {
  RunDirectory run(config.output.dir);
  std::error_code error;
  fs::create_directories(run.checkpoints().parent_path(), error);
  if (error || !fs::is_directory(run.path_))
    fail_usage("{}: this run directory cannot be made: {}", run.path_.string(),
               error ? error.message() : "there is a file of this name");
  if (!resume && !fs::is_empty(run.path_))
    fail_usage("{}: this run directory is not empty, expected --resume to continue it or another --out",
               run.path_.string());
  fs::create_directories(run.checkpoints(), error);
  check(!error, "{}: cannot be made: {}", run.checkpoints().string(), error.message());
  data::write_file_atomically(run.config(), to_textproto(config));
  return run;
}

bool RunDirectory::is_run(const fs::path& path) {
  const RunDirectory run(path);
  return fs::is_regular_file(run.config()) && fs::is_directory(run.checkpoints());
}

}  // namespace limbeck::launch
