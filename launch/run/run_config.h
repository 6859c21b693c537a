// The config that a command works by: files, a run directory in place of one, --set; and where the files lie that a
// run's config names by relative paths, for a run directory may have been moved, and is used from any folder.
//
//     const RunConfig config = load_given_config({"runs/mine", "longer.textproto"}, {"train.epochs=3"});
//     open_model(with_paths_found(config).teacher->source);
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launch/config/config.h"

namespace limbeck::launch {

/// As load_config; a run directory, or the config.textproto in one, stands for the config of that run
/// (load_run_config). Of others output.started_in is empty: their paths are from the working directory.
RunConfig load_given_config(const std::vector<std::filesystem::path>& given, const std::vector<std::string>& sets);

/// The config that the run in the folder `run` wrote, as a file there or elsewhere, with files laid over it and `sets`
/// applied: output.dir is that folder unless they name another, and relative paths of theirs, which are from the
/// working directory, become absolute.
RunConfig load_run_config(const ConfigPart& own, const std::filesystem::path& run,
                          const std::vector<std::filesystem::path>& more, const std::vector<std::string>& sets);

/// The config with every path of output.started_in as one from the working directory: that of what is there, seen from
/// output.started_in, else from output.dir, else from the working directory. Throws a UsageError with the field and all
/// places that were looked at.
RunConfig with_paths_found(RunConfig config);

}  // namespace limbeck::launch
