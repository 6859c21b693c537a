// The options of `limbeck launch`: its own, mpirun's, and behind "--" the command that it launches.

#include <algorithm>
#include <array>

#include "core/error.h"
#include "launch/commands/command_options.h"

namespace limbeck::launch {

namespace {

// mpirun's, by which ranks would take relative paths from another folder than this process does.
constexpr std::array foreign_folders = {"--wdir", "-wdir", "--wd", "-wd"};

}  // namespace

void CommandLine::launch(std::function<int(const LaunchOptions&)> run) {
  CLI::App& app =
      command("launch", "Train under mpirun, and go on where a rank dies or hangs",
              "limbeck launch -n 8 --hostfile hosts --map-by slot:PE=8 -- train CONFIG.textproto --out runs/mine\n"
              "  limbeck launch -n 8 --min-ranks 4 --max-restarts 20 -- distill CONFIG.textproto --resume\n"
              "Behind -- stands what mpirun starts, train or distill; options that are none of these are mpirun's.\n"
              "Exit code 3: a signal (Ctrl-C, SIGTERM, SIGUSR1, ...) stopped the run and it saved (docs/runs.md).");
  launch_ = bind<LaunchOptions>(app, std::move(run));
  app.add_option("-n", launch_->ranks, "Ranks to begin with")
      ->transform(number<int>(between(1, 16384)))
      ->required()
      ->type_name("N");
  app.add_option("--max-restarts", launch_->max_restarts, "Most times that it is started again")
      ->transform(number<int>(at_least(0)))
      ->capture_default_str();
  app.add_option("--min-ranks", launch_->min_ranks,
                 "Where hosts or slots are lacking, or a rank fails twice, go on with fewer ranks, so many at least")
      ->transform(number<int>(at_least(1)))
      ->type_name("N");
  app.add_option("--silent-after", launch_->silent_after,
                 "Seconds after which a rank without a sign of life is taken for dead")
      ->transform(number<double>(at_least(2)))
      ->capture_default_str();
  app.add_option("--step-deadline", launch_->step_deadline,
                 "Seconds in which some rank has to do a step, or exchange something; ten times that before the first "
                 "step; 0: any")
      ->transform(number<double>(at_least(0)))
      ->capture_default_str();
  app.parse_complete_callback([options = launch_] {
    if (options->command.empty()) throw CLI::RequiredError("-- train CONFIG");
  });
}

std::vector<std::string> CommandLine::own_of_launch(const std::vector<std::string>& arguments) {
  const CLI::App& app = *app_->get_subcommand("launch");
  const auto end = std::find(arguments.begin(), arguments.end(), "--");
  if (end != arguments.end()) launch_->command.assign(end + 1, arguments.end());
  std::vector<std::string> own = {arguments.front()};
  for (auto word = arguments.begin() + 1; word != end; ++word) {
    const std::size_t equals = std::min(word->find('='), word->size());
    std::string name = word->substr(0, equals);
    if (name == "-np" || name == "--np") name = "-n";  // as mpirun has it too
    const CLI::Option* option = name.starts_with('-') ? app.get_option_no_throw(name) : nullptr;
    if (std::ranges::find(foreign_folders, name) != foreign_folders.end())
      core::fail_usage("launch: {} is given, expected none: the run's files are looked for where launch is", name);
    if (option == nullptr) {
      launch_->mpirun.push_back(*word);
      continue;
    }
    own.push_back(name + word->substr(equals));
    if (option->get_type_size() > 0 && equals == word->size() && word + 1 != end) own.push_back(*++word);
  }
  return own;
}

}  // namespace limbeck::launch
