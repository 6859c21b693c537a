// The parts of a report that are texts and tables. Each is empty where a run has nothing for it.
#pragma once

#include <string>
#include <vector>

#include "launch/report/run_results.h"

namespace limbeck::launch {

/// The figures at the top of one run's page.
std::string cards(const RunResults& run);
/// Runs side by side, and in which fields their configs differ.
std::string comparison(const std::vector<RunResults>& runs);
/// What was measured on the held-out sample and on the sets, before and after.
std::string held_out(const RunResults& run);
/// What ranks exchanged, and how long they waited for it.
std::string communication(const RunResults& run);
/// How the config's prompt goes on.
std::string continuations(const std::vector<RunResults>& runs);
/// The commands and machines of a run, and its config.
std::string details(const std::vector<RunResults>& runs);

}  // namespace limbeck::launch
