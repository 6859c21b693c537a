// From text to token files: tokenizing with progress, and the token file of a run, the one that its config names or one
// made from its text at first use.
//
//     tokenize({"articles"}, *tokenizer, "tokens/articles", {.threads = 8}, log);
//     data::TokenFile file(token_prefix(rank, source, config.data.cache_dir, *tokenizer, log));
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/text/tokenize.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// data::tokenize_files, telling the log how far it is, what it gave, and what was dropped or repaired. Throws Stopped
/// (stop_flag.h) at a signal, with what was done kept.
void tokenize(const std::vector<std::string>& paths, const data::Tokenizer& tokenizer, const std::string& prefix,
              data::TokenizeOptions options, const Log& log);

/// The PREFIX of token files that are there already, of data.tokens or of text that was tokenized into `cache_dir`
/// before; nothing where they are not, or the text itself is not. Their bytes are not read.
std::optional<std::string> known_token_prefix(const DataSourceConfig& source, const std::filesystem::path& cache_dir,
                                              const data::Tokenizer& tokenizer);

/// Collective: the PREFIX of PREFIX.bin and PREFIX.idx. Text is tokenized by the first rank into `cache_dir`, under a
/// name that depends on the files' paths, sizes and times and on the tokenizer, and is found there again.
std::string token_prefix(Rank& rank, const DataSourceConfig& source, const std::filesystem::path& cache_dir,
                         const data::Tokenizer& tokenizer, const Log& log);

}  // namespace limbeck::launch
