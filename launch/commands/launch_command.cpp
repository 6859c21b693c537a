// `limbeck launch`.

#include <filesystem>

#include "core/error.h"
#include "launch/commands/commands.h"
#include "launch/supervision/supervisor.h"

namespace limbeck::launch {

namespace {

/// What the words behind "--" ask for; throws, as they do, where they are wrong.
TrainOptions training_of(const std::vector<std::string>& words) {
  std::optional<TrainOptions> training;
  CommandLine line;
  const auto keep = [&](const TrainOptions& options) {
    training = options;
    return 0;
  };
  line.train(keep);
  line.distill(keep);
  std::vector<const char*> arguments = {"limbeck"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  const Invocation invocation = line.parse(static_cast<int>(arguments.size()), arguments.data());
  if (invocation.run) invocation.run();
  if (!training) core::fail_usage("launch: {} is asked for behind --, expected train or distill", words.back());
  return *training;
}

}  // namespace

int run_launch(const LaunchOptions& options) {
  if (launcher_rank().is_launched)
    core::fail_usage("launch: it runs under mpirun or srun, expected to be started alone: it starts mpirun itself");
  if (options.min_ranks && *options.min_ranks > options.ranks)
    core::fail_usage("--min-ranks is {}, expected {} at most, as -n has", *options.min_ranks, options.ranks);
  const TrainOptions training = training_of(options.command);
  const RunConfig config = config_of(training);
  using Seconds = std::chrono::duration<double>;
  return Supervisor(
             {.ranks = options.ranks,
              .mpirun = options.mpirun,
              .program = std::filesystem::read_symlink("/proc/self/exe").string(),
              .training = options.command,
              .resume = training.resume,
              .config = config,
              .baseline = training.baseline ? std::optional<std::filesystem::path>(baseline_of(config).output.dir)
                                            : std::nullopt,
              .restarts = {.max_restarts = options.max_restarts, .min_ranks = options.min_ranks},
              .limits = {.silent_after = Seconds(options.silent_after),
                         .step_deadline = Seconds(options.step_deadline)}},
             make_log(0, options.verbosity))
      .run();
}

}  // namespace limbeck::launch
