// The documents of text files as work for several threads: a plain file, or some lines of a file, at a time.
//
//     TextJobs jobs(list_text_files(paths), TextFormat::Auto);
//     while (const std::optional<TextJob> job = jobs.next())
//       for_each_document(*job, JsonField("text"), [](std::string&& text, std::int64_t line) { ... });
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/text/json_lines.h"
#include "data/text/text_source.h"

namespace limbeck::data {

struct TextJob {
  std::string file;
  std::optional<LineBlock> lines = std::nullopt;  // without: the file is one document

  bool is_last() const { return !lines || lines->is_last; }  // of its file
};

class TextJobs {
 public:
  static constexpr std::int64_t max_document_bytes = std::int64_t{1} << 30U;

  TextJobs(std::vector<std::string> files, TextFormat format) : files_(std::move(files)), format_(format) {}
  /// Nothing after the last. Throws as is_json_lines and LineReader do. One thread at a time.
  std::optional<TextJob> next();

 private:
  std::vector<std::string> files_;
  TextFormat format_;
  std::size_t at_ = 0;
  std::unique_ptr<LineReader> lines_;
};

/// The texts of a job in order, each with its line in the file, from 1; 0 where it is the whole file. What is thrown
/// names the file.
void for_each_document(const TextJob& job, const JsonField& field,
                       const std::function<void(std::string&& text, std::int64_t line)>& use);

}  // namespace limbeck::data
