#include "launch/commands/may_write.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"
#include "data/files/file_kind.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

bool lies_in(const fs::path& file, const fs::path& folder) {
  std::error_code error;
  const fs::path real_file = fs::canonical(file, error), real_folder = fs::canonical(folder, error);
  return !error && std::mismatch(real_folder.begin(), real_folder.end(), real_file.begin(), real_file.end()).first ==
                       real_folder.end();
}

}  // namespace

void check_may_write(const fs::path& path, bool force, const std::vector<fs::path>& read) {
  std::error_code error;  // of a file that is not there
  if (!path.has_filename()) core::fail_usage("'{}' is given, expected the name of a file to write", path.string());
  if (fs::exists(path, error) && !fs::is_regular_file(path, error))
    core::fail_usage("{}: is {}, expected a file to write", path.string(), data::kind_of_file(path).name);
  for (const auto& source : read) {
    if (fs::equivalent(path, source, error))
      core::fail_usage("{}: is what is read ({}), expected another file to write", path.string(), source.string());
    if (fs::is_regular_file(path, error) && fs::is_directory(source, error) && lies_in(path, source))
      core::fail_usage("{}: is there, in what is read ({}), expected another file to write", path.string(),
                       source.string());
  }
  if (!force && fs::exists(fs::symlink_status(path, error)))
    core::fail_usage("{}: is there already, expected a new file (--force replaces it)", path.string());
}

std::vector<fs::path> files_of_model(const fs::path& path) {
  constexpr std::array<std::string_view, 7> read = {".json", ".jsonl", ".safetensors", ".model",
                                                    ".txt",  ".jinja", ".textproto"};
  std::error_code error;
  if (!fs::is_directory(path, error)) return {path};
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
    const bool is_of_checkpoint = fs::exists(entry.path().parent_path() / "manifest.json", error);
    if (is_of_checkpoint || std::find(read.begin(), read.end(), entry.path().extension().string()) != read.end())
      files.push_back(entry.path());
  }
  return files;
}

}  // namespace limbeck::launch
