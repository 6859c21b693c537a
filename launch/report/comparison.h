// Runs side by side: figures, and in which fields of their configs they differ.
//
//     write_result(comparison_table({read_run(a), read_run(b)}));
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/report/run_results.h"

namespace limbeck::launch {

struct ComparisonRow {
  std::string label;
  std::vector<std::string> cells;  // of each run; "-": not measured
  std::vector<bool> is_best;
  std::string difference = {};  // of two runs, where both have measured it: the second less the first
};

struct Comparison {
  std::vector<ComparisonRow> figures;
  std::vector<ComparisonRow> fields;  // of the configs that are not the same in all
  bool is_of_one_sample = true;       // the runs hold out the same text
};
Comparison compare_runs(const std::vector<RunResults>& runs);

/// Lines of at most 100 columns: a column a run, a row a figure or a field; "-" where a run has not measured it, "*" at
/// the best where at least two have. Two runs have a column of differences behind. More runs than fit follow below.
std::string comparison_table(const std::vector<RunResults>& runs);

/// {"runs": [...], "differing_fields": [...], "best": {FIGURE: [i, ...]}}, i counting the runs from 0; of two runs also
/// "differences": {FIGURE: second less first}, of what was measured of the models. What was not measured is absent.
nlohmann::ordered_json comparison_json(const std::vector<RunResults>& runs);

/// The figures of one run, as comparison_json has them.
nlohmann::ordered_json results_json(const RunResults& run);

/// The same for people: a line a figure, with what it was before the first step.
std::string results_text(const RunResults& run);

}  // namespace limbeck::launch
