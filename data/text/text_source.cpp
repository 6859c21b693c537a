#include "data/text/text_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/files/unpacked_file.h"

namespace limbeck::data {

namespace fs = std::filesystem;
using core::check;
using core::fail;

namespace {

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

/// What lies below a folder: files, and links to folders, which are not followed.
struct Below {
  std::vector<std::string> files;
  std::set<fs::path> links;
};

/// `seen`: the folders that were read, each once.
void find_below(const fs::path& folder, std::set<fs::path>& seen, Below& below) {
  if (!seen.insert(fs::canonical(folder)).second) return;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& path = entry.path();
    if (is_hidden(path)) continue;
    if (entry.is_directory()) {
      if (entry.is_symlink())
        below.links.insert(path);
      else
        find_below(path, seen, below);
    } else if (entry.is_regular_file()) {
      below.files.push_back(path.string());
    } else {
      const std::string_view kind = kind_of_file(path).name;
      fail("{}: is {}, expected a text file or a folder", path.string(), kind.empty() ? "a link to nothing" : kind);
    }
  }
}

void add_folder(const fs::path& folder, std::vector<std::string>& files) {
  Below below;
  std::set<fs::path> seen;
  try {
    find_below(folder, seen, below);
    // Links when all that is reached without them is known: a file has the same name whatever links there are.
    while (!below.links.empty()) find_below(below.links.extract(below.links.begin()).value(), seen, below);
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be listed: {}", error.path1().string(), error.code().message());
  }
  std::sort(below.files.begin(), below.files.end());
  files.insert(files.end(), below.files.begin(), below.files.end());
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
  if (format != TextFormat::Auto) return format != TextFormat::Plain;
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
