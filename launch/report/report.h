// Runs as one web page: figures, curves, experts, held-out tables, continuations, how they were started, configs. It
// needs no network, and no script but to look closer.
//
//     const std::string page = report_page({read_run(RunDirectory("runs/distill_smollm2"))});
//     data::write_file_atomically("report.html", page);
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launch/report/run_results.h"

namespace limbeck::launch {

/// What a page has beside its runs.
struct PageParts {
  std::string policy = {};   // further directives of its Content-Security-Policy, each with "; " behind it
  std::string section = {};  // behind its header
  std::string planned = {};  // of one run, behind what it exchanged
  std::string script = {};   // behind its own, without a mark of markup
};

/// Of at least one run. Well-formed as HTML and as XML. Throws, naming the file, where a run has no step yet.
std::string report_page(const std::vector<RunResults>& runs, const PageParts& parts = {});
/// In the place of one, with a sentence that says why.
std::string empty_page(const std::string& title, const std::string& why, const PageParts& parts);

/// Of run directories, which are there: as name_of_run, but those that share a name are called by their paths.
std::vector<std::string> names_apart(const std::vector<std::filesystem::path>& runs);
/// As read_run, with these names.
std::vector<RunResults> read_runs(const std::vector<std::filesystem::path>& runs);

/// The page's style sheet and script.
extern const char* const report_style;
extern const char* const report_script;

}  // namespace limbeck::launch
