// `limbeck eval MODEL --format pairs --text PATH...`: how a reward model judges pairs of responses.
//
//     evaluate_pairs(rank, options);        // within in_world; prints the result
#pragma once

#include "launch/commands/command_line.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Throws a UsageError where options contradict each other.
void check_pairs_options(const EvalOptions& options);

/// Collective: the rewards that options.model gives the responses of --text; the first rank prints. Pairs of which a
/// response has more tokens than the model has positions are left out. Throws where the model has no reward head, or a
/// reward is not finite.
void evaluate_pairs(Rank& rank, const EvalOptions& options);

}  // namespace limbeck::launch
