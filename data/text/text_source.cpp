#include "data/text/text_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/files/unpacked_file.h"

namespace limbeck::data {

namespace fs = std::filesystem;
using core::check;
using core::fail;

namespace {

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

/// The files below a folder, through links too, each folder once; `seen`: the folders that were.
void find_files(const fs::path& folder, std::set<fs::path>& seen, std::vector<std::string>& found) {
  if (!seen.insert(fs::canonical(folder)).second) return;
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& path = entry.path();
    if (is_hidden(path)) continue;
    if (entry.is_directory()) {
      folders.push_back(path);
    } else if (entry.is_regular_file()) {
      found.push_back(path.string());
    } else {
      const std::string_view kind = kind_of_file(path).name;
      fail("{}: is {}, expected a text file or a folder", path.string(), kind.empty() ? "a link to nothing" : kind);
    }
  }
  // Real folders before links, so that a file has the same name whatever order they are listed in.
  std::sort(folders.begin(), folders.end(), [](const fs::path& a, const fs::path& b) {
    return std::pair(fs::is_symlink(a), a) < std::pair(fs::is_symlink(b), b);
  });
  for (const fs::path& below : folders) find_files(below, seen, found);
}

void add_folder(const fs::path& folder, std::vector<std::string>& files) {
  std::vector<std::string> found;
  std::set<fs::path> seen;
  try {
    find_files(folder, seen, found);
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be listed: {}", error.path1().string(), error.code().message());
  }
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

}  // namespace

std::vector<std::string> list_text_files(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const auto& path : paths) {
    std::error_code error;
    if (fs::is_directory(path, error)) {
      add_folder(path, files);
    } else if (fs::is_regular_file(path, error)) {
      files.push_back(path);
    } else {
      check(!error || error == std::errc::no_such_file_or_directory, "{}: cannot be read: {}", path, error.message());
      const std::string_view kind = kind_of_file(path).name;
      fail("{}: is {}, expected a text file or a folder", path, kind.empty() ? "not there" : kind);
    }
  }
  check(!files.empty(), "{}: no text files found", fmt::join(paths, ", "));
  return files;
}

bool is_json_lines(const std::string& path, TextFormat format) {
  if (format != TextFormat::Auto) return format == TextFormat::JsonLines;
  fs::path name = path;
  if (name.extension() == ".gz" || name.extension() == ".zst") name = name.stem();
  const std::string extension = name.extension().string();
  if (extension == ".json")
    core::fail_usage("{}: may be JSON lines or plain text, expected the format to be given for .json", path);
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".jsonlines";
}

std::string read_document(const std::string& path, std::int64_t max_bytes) {
  UnpackedFile file(path);
  constexpr std::size_t chunk = 1U << 18U;
  std::string text;
  while (true) {
    const std::size_t before = text.size();
    text.resize(before + chunk);
    const std::size_t got = file.read({text.data() + before, chunk});
    text.resize(before + got);
    check(static_cast<std::int64_t>(text.size()) <= max_bytes,
          "{}: holds more than {} bytes, the limit for one document", path, max_bytes);
    if (got < chunk) return text;
  }
}

}  // namespace limbeck::data
