// JSON lines: one JSON object a line, the text in one of its string fields. Files are read block by block, so their
// size does not matter; a line has a limit.
//
//     JsonField field("text");                                // or "payload.body", from object to object
//     LineReader reader("articles.jsonl.zst", {}, max_line_bytes);
//     for (bool more = true; more;) {
//       LineBlock block = reader.next();
//       for_each_text(block, field, "articles.jsonl.zst", [](std::string&& text, std::int64_t line) { ... });
//       more = !block.is_last;
//     }
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/files/unpacked_file.h"

namespace limbeck::data {

/// Where a line begins in the unpacked text.
struct LinePlace {
  std::int64_t offset = 0;  // bytes before it
  std::int64_t line = 0;    // lines before it
};

/// Some whole lines.
struct LineBlock {
  std::string text = {};
  LinePlace begin = {};
  LinePlace end = {};
  std::int64_t packed_end = 0;  // bytes of the file that were read for it and those before
  bool is_last = false;         // of its file; then `text` may be empty, and its last line without a line end
};

class LineReader {
 public:
  /// From `begin` on, which is the end of some block.
  LineReader(const std::string& path, const LinePlace& begin, std::int64_t max_line_bytes);

  /// The next megabyte of lines, or one line that is longer. Throws, naming file and line, for a line of more than the
  /// limit (a megabyte is always allowed), and as UnpackedFile does. Not to be called after the last.
  LineBlock next();

 private:
  std::string path_;
  UnpackedFile file_;
  LinePlace place_;
  std::int64_t max_line_bytes_;
  std::string rest_;  // the beginning of a line
};

/// The field whose string is the text: a name, or names joined by dots for an object in an object.
class JsonField {
 public:
  /// Throws a UsageError for an empty name.
  explicit JsonField(std::string_view names);

  /// The field's string in `line`. Throws, naming `file`, the line's number and what was found, where the line is no
  /// JSON object or has no such string. Where a name is there twice, the last counts.
  std::string text_of(std::string_view line, const std::string& file, std::int64_t line_number) const;
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

/// A block's lines that are not blank, in order, with their numbers from 1.
void for_each_line(const LineBlock& block, const std::function<void(std::string_view line, std::int64_t number)>& use);

/// The texts of a block's lines in order, with the lines' numbers from 1; blank lines have none.
void for_each_text(const LineBlock& block, const JsonField& field, const std::string& file,
                   const std::function<void(std::string&& text, std::int64_t line)>& use);

}  // namespace limbeck::data
