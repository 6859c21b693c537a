// `limbeck eval MODEL --task KIND:FILE...`: a model on questions of benchmarks.
//
//     evaluate_tasks(rank, options);       // within in_world; prints the result
#pragma once

#include "launch/commands/command_line.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Throws a UsageError where options contradict each other, and for what is no task.
void check_task_options(const EvalOptions& options);

/// The options on which the result depends, a line each, for in_world.
std::string task_identity(const EvalOptions& options);

/// Collective: the answers of options.model to the questions of each --task, and the first rank prints.
void evaluate_tasks(Rank& rank, const EvalOptions& options);

}  // namespace limbeck::launch
