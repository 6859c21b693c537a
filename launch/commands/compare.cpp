// `limbeck compare`: runs side by side.

#include "data/files/json_text.h"
#include "launch/commands/commands.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/report/comparison.h"

namespace limbeck::launch {

int run_compare(const CompareOptions& options) {
  if (is_left_to_first_rank("compare")) return 0;
  std::vector<RunResults> runs;
  for (const auto& run : options.runs) runs.push_back(read_run(RunDirectory(run)));
  write_result(options.json ? data::indented(comparison_json(runs)) : comparison_table(runs));
  return 0;
}

}  // namespace limbeck::launch
