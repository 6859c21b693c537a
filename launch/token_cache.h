// The token file of a run: the one that its config names, or one made from its text at first use.
#pragma once

#include <string>

#include "data/text_source.h"
#include "data/tokenizer.h"
#include "launch/config.h"
#include "launch/log.h"
#include "launch/rank.h"

namespace limbeck::launch {

/// What tokenizing gave, and a warning for bytes that were dropped or repaired.
void log_counts(const Log& log, const data::TokenizeCounts& counts);

/// Collective: the PREFIX of PREFIX.bin and PREFIX.idx. Text is tokenized by the first rank into data.cache_dir, under
/// a name that depends on the files' paths, sizes and times and on the tokenizer, and is found there again.
std::string token_prefix(Rank& rank, const DataConfig& config, const data::Tokenizer& tokenizer, const Log& log);

}  // namespace limbeck::launch
