// Plain text on disk, a file a document, and the way from there to a token file.
//
//     for (const auto& path : list_text_files({"/usr/share/doc/anarchism/markdown"})) read_document(path);
//     TokenizeCounts counts = tokenize_files({"notes", "book.txt.gz"}, *tokenizer, "data/train");
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace limbeck::data {

/// The files that `paths` name, those of folders found below them and sorted by path. Hidden files and folders below a
/// named folder are left out. Throws, naming it, for a path that is not there, and where no file is found.
std::vector<std::string> list_text_files(const std::vector<std::string>& paths);

/// The contents of a file, unpacked where it is gzip. Throws, naming the path, where it cannot be read, is a broken
/// gzip or holds more than `max_bytes`.
std::string read_document(const std::string& path, std::int64_t max_bytes = std::int64_t{1} << 30);

struct TokenizeCounts {
  std::int64_t documents = 0;  // empty files are none
  std::int64_t bytes = 0;      // of text, unpacked
  std::int64_t tokens = 0;     // ends of text included
  EncodeCounts encode;
};

struct TokenizeOptions {
  int threads = 1;
  std::int64_t max_document_bytes = std::int64_t{1} << 30;
  /// Called now and then with what is done so far, from the calling thread.
  std::function<void(const TokenizeCounts& so_far, std::int64_t files_done, std::int64_t num_files)> progress = {};
};

/// Tokenizes every file of `paths` into the token file `prefix`, the end-of-text token after each document. The names
/// of special tokens in the text are ordinary text. The result does not depend on the number of threads.
TokenizeCounts tokenize_files(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                              const std::string& prefix, const TokenizeOptions& options = {});

}  // namespace limbeck::data
