// Files packed as users have them.
//
//     write_gzip(folder / "a.gz", text);
//     write_file(folder / "a.zst", zstd_frame(text));
#pragma once

#include <filesystem>
#include <string>

namespace limbeck::testing {

void write_gzip(const std::filesystem::path& path, const std::string& text);
/// One frame, with its checksum, of a stream: its size is not in its head.
std::string zstd_frame(const std::string& text);
void write_zstd(const std::filesystem::path& path, const std::string& text);

}  // namespace limbeck::testing
