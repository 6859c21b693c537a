// Runs as one web page: figures, curves, experts, held-out tables, continuations, how they were started, configs. It
// needs no network, and no script but to look closer.
//
//     const std::string page = report_page({read_run(RunDirectory("runs/distill_smollm2"))});
//     data::write_file_atomically("report.html", page);
#pragma once

#include <string>
#include <vector>

#include "launch/report/run_results.h"

namespace limbeck::launch {

/// Of at least one run. Well-formed as HTML and as XML. Throws, naming the file, where a run has no step yet.
std::string report_page(const std::vector<RunResults>& runs);

/// The page's style sheet and script.
extern const char* const report_style;
extern const char* const report_script;

}  // namespace limbeck::launch
