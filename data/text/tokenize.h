// From text to a token file: many files, many threads, and on from where it was when it is killed.
//
//     TokenizeCounts counts = tokenize_files({"notes", "book.txt.gz", "articles.jsonl.zst"}, *tokenizer, "data/train",
//                                            {.threads = 8});
//     TokenFile file("data/train");
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/text/text_source.h"
#include "data/text/tokenize_journal.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

struct TokenizeOptions {
  int threads = 1;
  TextFormat format = TextFormat::Auto;
  std::string field = "text";  // of JSON lines (field_of), as JsonField takes it
  bool parse_special = false;  // names of special tokens in the text become those tokens
  std::int64_t max_document_bytes = std::int64_t{1} << 30;
  bool is_kept = false;                        // with its hash (token_hash.h): a whole one that is there stays
  std::chrono::milliseconds save_every{2000};  // how much work a kill may lose
  /// Called now and then with what is done so far, by one thread at a time; bytes are those of the files on the disk.
  std::function<void(const TokenizeCounts& so_far, std::int64_t bytes_done, std::int64_t num_bytes)> progress = {};
  std::function<void(const std::string& line)> notice = {};  // what people should know
};

/// Tokenizes every document of `paths` into the token file `prefix`, the end-of-text token after each and the
/// start-of-text token, if the tokenizer has one, before it, unless the document begins and ends with them itself;
/// empty ones are left out. Conversations become tokens by the tokenizer's chat template, and PREFIX.mask says which of
/// them are targets. PREFIX.meta.json says which tokenizer it was. The result does not depend on the number of
/// threads, nor on interruptions: until it is finished, the work lies in PREFIX.bin.partial, PREFIX.idx.partial and
/// PREFIX.journal, and a later call with the same prefix goes on there, or before the first input that has changed
/// since. Memory: the documents in work, about 64 MiB of them or one. Counts of 0 documents: see is_kept.
/// Throws, naming file (and line), for input that cannot be read; what was done before it is kept.
TokenizeCounts tokenize_files(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                              const std::string& prefix, const TokenizeOptions& options = {});

}  // namespace limbeck::data
