// What has to be equal on all ranks, compared once: a config that lies on each node's own disk may have been edited on
// one, or a program be another there, and replicas would part without a word.
//
//     check_same_everywhere(*world.comm(), run_identity(config, "steps: 20\n"));
#pragma once

#include <string>
#include <vector>

#include "core/comm.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// Collective: a string of every rank, in rank order, on every rank.
std::vector<std::string> gather_strings(core::Comm& world, const std::string& mine);

/// Collective. `text` is in text format, a field a line. Where it is not the same on all ranks, every rank throws the
/// same UsageError, which names the first field that differs.
void check_same_everywhere(core::Comm& world, const std::string& text);

/// The program (version, build, kernels), what else the command was given (fields, a line each), and the config.
std::string run_identity(const RunConfig& config, const std::string& command);

/// "optimizer.rate is 0.5 on rank 1 and 0.1 on rank 0", for the first line that differs.
std::string first_difference(const std::string& first, const std::string& other, std::size_t rank);

}  // namespace limbeck::launch
