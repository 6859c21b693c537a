// `limbeck eval MODEL --text PATH...`: a model on all of a text.
//
//     evaluate_text(rank, options);        // within in_world; prints the result
#pragma once

#include "launch/commands/command_line.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Throws a UsageError where options contradict each other.
void check_text_options(const EvalOptions& options);

/// The options on which the result depends, a line each, for in_world.
std::string text_identity(const EvalOptions& options);

/// Collective: measures options.model on the documents of --text or --tokens, and the first rank prints.
void evaluate_text(Rank& rank, const EvalOptions& options);

}  // namespace limbeck::launch
