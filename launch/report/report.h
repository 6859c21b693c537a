// A run as one web page: figures, curves, the held-out table, continuations, the config. It needs no network and no
// script.
//
//     const std::string page = report_page(RunDirectory("runs/distill_smollm2"));
//     data::write_file_atomically("report.html", page);
#pragma once

#include <string>

#include "launch/run/run_directory.h"

namespace limbeck::launch {

/// Reads config.textproto, metrics.jsonl, and start.json and end.json where they are. Well-formed as HTML and as XML.
/// Throws, naming file and line, where one of them is damaged, and a UsageError where the folder is no run's.
std::string report_page(const RunDirectory& run);

/// The page's style sheet and script.
extern const char* const report_style;
extern const char* const report_script;

}  // namespace limbeck::launch
