// The report's page, which follows its runs: a script beside it takes over what the server says (watch_server.h).
//
//     const std::string page = watch_page(read_runs({"runs/a"}));
#pragma once

#include <string>
#include <vector>

#include "launch/report/run_results.h"

namespace limbeck::launch {

/// Of runs of which some may have no step yet.
std::string watch_page(const std::vector<RunResults>& runs);
/// In its place, with why there is nothing else to see.
std::string page_without_runs(const std::vector<std::string>& names, const std::string& why);

}  // namespace limbeck::launch
