// How long the text of a run is that is planned, where its tokens are there already.
//
//     if (const auto sequences = sequences_an_epoch(config, *models.tokenizer)) resolve_steps(config, *sequences);
#pragma once

#include <cstdint>
#include <optional>

#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// Training sequences of the config's text, once through each of its sources, as a run cuts them. Nothing where the
/// tokens of a source are not there: its token files, or what a run that used the text before has made of it. Throws as
/// a run does where they cannot be read, or are too few.
std::optional<std::int64_t> sequences_an_epoch(const RunConfig& config, const data::Tokenizer& tokenizer);

}  // namespace limbeck::launch
