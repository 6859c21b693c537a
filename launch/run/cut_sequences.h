// Sequences that are cut over ranks (layouts with cp): what of their samples a rank takes, and what needs them whole.
//
//     check_cut_sequences(config, architecture, rank.context_place());
//     const data::TokenBatch mine = cut_of(samples, rank.context_place());     // for what goes by a text's pieces
#pragma once

#include "core/nn/cut_batch.h"
#include "core/nn/model_config.h"
#include "data/text/loader.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// Of each sequence the tokens that nn::make_cut_batch takes, in its order; pieces of documents that lie across a cut
/// become two.
data::TokenBatch cut_of(const data::TokenBatch& samples, nn::ContextPlace place);

/// Throws a UsageError where sequences are cut and a run asks for what looks at them whole.
void check_cut_sequences(const RunConfig& config, const nn::ModelConfig& student, nn::ContextPlace place);

}  // namespace limbeck::launch
