// Text on disk: plain files, a file a document, and JSON lines, a line a document; both may be packed (gzip, zstd).
//
//     for (const auto& path : list_text_files({"/usr/share/doc/anarchism/markdown", "articles.jsonl.zst"}))
//       if (is_json_lines(path, TextFormat::Auto)) ...              // by json_lines.h
//       else read_document(path);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"

namespace limbeck::data {

/// Auto: by the file's name. Chat: JSON lines of which each is a conversation. Pairs: each is a prompt with two
/// responses of which one is preferred (preference_lines.h).
enum class TextFormat : std::uint8_t { Auto, Plain, JsonLines, Chat, Pairs };

/// The field of JSON lines that is meant: "text", the default, is "messages" where they are conversations.
inline std::string field_of(TextFormat format, const std::string& field) {
  return format == TextFormat::Chat && field == "text" ? "messages" : field;
}

/// The files that `paths` name, those of folders found below them and sorted by path. Hidden files and folders below a
/// named folder are left out. Throws, naming it, for a path that is not there, and where no file is found.
std::vector<std::string> list_text_files(const std::vector<std::string>& paths);

/// Whether a file is JSON lines: where the format does not say, by its name without .gz or .zst, which then ends in
/// .jsonl, .ndjson or .jsonlines. Throws a UsageError for .json, which may be either.
bool is_json_lines(const std::string& path, TextFormat format);

/// The contents of a file, unpacked. Throws, naming the path, where it cannot be read, its packing is broken or it
/// holds more than `max_bytes`.
std::string read_document(const std::string& path, std::int64_t max_bytes = std::int64_t{1} << 30);

/// f(), whose errors are told with the file in front that its text is of.
template <class F>
decltype(auto) of_file(const std::string& path, F&& f) {
  try {
    return f();
  } catch (const core::Error& error) {
    core::fail("{}: {}", path, error.what());
  }
}

}  // namespace limbeck::data
