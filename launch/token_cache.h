// The token file of a run: the one that its config names, or one made from its text at first use.
#pragma once

#include <string>

#include "data/tokenizer.h"
#include "launch/config.h"
#include "launch/log.h"
#include "launch/rank.h"

namespace limbeck::launch {

/// Collective: the PREFIX of PREFIX.bin and PREFIX.idx. Text is tokenized by the first rank into data.cache_dir, under
/// a name that depends on the files' paths, sizes and times and on the tokenizer, and is found there again.
std::string token_prefix(Rank& rank, const DataConfig& config, const data::Tokenizer& tokenizer, const Log& log);

}  // namespace limbeck::launch
