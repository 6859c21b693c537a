// Files that are there whole or not at all, also after a crash: written under a temporary name, brought to the disk,
// renamed.
//
//     write_file_atomically(folder / "manifest.json", text);
//     sync_path(folder / "rank_00000.h5");                       // contents are on the disk
//     replace_folder(dir / "step_20.tmp", dir / "step_20");      // one rename; an older step_20 is removed afterwards
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace limbeck::data {

/// Writes and flushes `path.tmp`, renames it to `path`, flushes the folder. Throws, naming the file and the system's
/// reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// Waits until a file's contents, or a folder's entries, are on the disk.
void sync_path(const std::filesystem::path& path);

/// Moves a finished folder to its name, in place of an older folder of that name; both are on one file system.
void replace_folder(const std::filesystem::path& finished, const std::filesystem::path& name);

/// The whole file as text; throws where it cannot be read or has more than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::uintmax_t max_bytes);

}  // namespace limbeck::data
