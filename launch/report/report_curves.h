// The curves of a report: all figures of one run, or each figure of several runs in one plot.
//
//     page += runs_data({run}) + draw_curves({run});
#pragma once

#include <string>
#include <vector>

#include "launch/report/run_results.h"

namespace limbeck::launch {

/// Figures, each with a line of several fields; of several runs a figure a field, with a line a run.
std::string draw_curves(const std::vector<RunResults>& runs);

/// What the page's script knows of the runs: names, and tokens and seconds of training by step.
std::string runs_data(const std::vector<RunResults>& runs);

}  // namespace limbeck::launch
