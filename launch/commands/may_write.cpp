#include "launch/commands/may_write.h"

#include "core/error.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

void check_may_write(const fs::path& path, bool force, const std::vector<fs::path>& read) {
  std::error_code error;  // of a file that is not there
  if (fs::is_directory(path, error)) core::fail_usage("{}: is a folder, expected a file to write", path.string());
  for (const auto& source : read)
    if (fs::equivalent(path, source, error))
      core::fail_usage("{}: is what is read ({}), expected another file to write", path.string(), source.string());
  if (!force && fs::exists(fs::symlink_status(path, error)))
    core::fail_usage("{}: is there already, expected a new file (--force replaces it)", path.string());
}

}  // namespace limbeck::launch
