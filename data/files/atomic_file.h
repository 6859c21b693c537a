// Files that are there whole or not at all, also after a crash: written under a temporary name, brought to the disk,
// renamed.
//
//     write_file_atomically(folder / "manifest.json", text);
//     TemporaryFile logits("logits.h5");                         // for other writers: they write logits.name()
//     write_somehow(logits.name());
//     logits.keep();
//     sync_path(folder / "rank_00000.h5");                       // contents are on the disk
//     replace_folder(dir / "step_20.tmp", dir / "step_20");      // one rename; an older step_20 is removed afterwards
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace limbeck::data {

/// PATH.tmp, which is removed at the end unless it was kept.
class TemporaryFile {
 public:
  /// Of the file that is to have the name `path`. Throws where a folder has it.
  explicit TemporaryFile(const std::filesystem::path& path);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::filesystem::path& name() const { return name_; }
  /// Brings the file to the disk and gives it its name, in place of an older one. Closed by whoever wrote it.
  void keep();

 private:
  std::filesystem::path path_;
  std::filesystem::path name_;
  bool is_kept_ = false;
};

/// Writes and flushes `path.tmp`, renames it to `path`, flushes the folder. Throws, naming the file and the system's
/// reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// Waits until a file's contents, or a folder's entries, are on the disk.
void sync_path(const std::filesystem::path& path);

/// Makes a folder and those around it, unless it is there. Throws, naming it, with the system's reason.
void make_folder(const std::filesystem::path& folder);

/// Moves a finished folder to its name, in place of an older folder of that name; both are on one file system.
void replace_folder(const std::filesystem::path& finished, const std::filesystem::path& name);

/// The whole file as text, without a byte order mark; throws where it cannot be read or has more than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::uintmax_t max_bytes);

}  // namespace limbeck::data
