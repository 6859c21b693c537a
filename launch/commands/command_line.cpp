#include "launch/commands/command_line.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "launch/commands/command_options.h"
#include "launch/commands/help_text.h"
#include "launch/commands/version.h"
#include "launch/config/config_fields.h"
#include "launch/console/shell_quoted.h"

namespace limbeck::launch {

using core::fail_usage;

CLI::Validator in_a_folder() {
  const auto problem = [](const std::string& file) -> std::string {
    const auto folder = std::filesystem::path(file).parent_path();
    return folder.empty() || std::filesystem::is_directory(folder)
               ? ""
               : fmt::format("there is no folder {}, expected one to write in", folder.string());
  };
  return {problem, ""};
}

void add_config_options(CLI::App& app, std::vector<std::string>& sets) {
  app.add_option("--set", sets, "Set a field of the config: section.field=value (lists: docs/config.md)")
      ->type_size(1)
      ->allow_extra_args(false)
      ->type_name("A.B=VALUE");
  app.set_help_all_flag("--help-fields", "List the config's fields and their defaults, and exit");
}

namespace {

template <class Options>
CLI::Option* add_config(CLI::App& app, Options& options,
                        const std::string& what = "Config in text format (examples/), or run directory") {
  CLI::Option* config = app.add_option("CONFIG", options.configs, what + "; each is laid over those before it")
                            ->required()
                            ->type_name("");
  add_config_options(app, options.sets);
  return config;
}

/// --option= as --option and an empty text, which CLI11 does not take from it.
std::vector<std::string> with_empty_values_apart(const std::vector<std::string>& given) {
  std::vector<std::string> arguments;
  for (const std::string& argument : given) {
    const bool is_empty_value =
        argument.starts_with("--") && argument.size() > 3 && argument.find('=') == argument.size() - 1;
    arguments.push_back(is_empty_value ? argument.substr(0, argument.size() - 1) : argument);
    if (is_empty_value) arguments.emplace_back();
  }
  return arguments;
}

}  // namespace

CommandLine::CommandLine()
    : app_(std::make_unique<CLI::App>("Trains mixture-of-experts language models and distils teachers into them.")) {
  app_->name("limbeck");
  app_->set_help_flag("--help,-h", "Print this and exit");
  app_->set_version_flag("--version", version_text, "Print version, build, devices and libraries, and exit");
  app_->require_subcommand(1);
  app_->footer(
      "A command runs alone or under mpirun --bind-to none -n N. `limbeck COMMAND --help` has an example.\n"
      "Every command takes --quiet (errors and results only) and --verbose: limbeck train CONFIG --quiet\n"
      "Exit code: 0 done, 1 failed, 2 wrong use, 3 stopped by a signal and saved.\n");
}

CommandLine::~CommandLine() = default;

CLI::App& CommandLine::command(const std::string& name, const std::string& what, const std::string& example) {
  CLI::App& app = *app_->add_subcommand(name, what);
  app.footer("Example:\n  " + example + "\n");
  return app;
}

std::shared_ptr<TrainOptions> CommandLine::add_training(CLI::App& app, std::function<int(const TrainOptions&)> run) {
  auto options = bind<TrainOptions>(app, std::move(run));
  add_config(app, *options);
  app.add_option("--out", options->out, "Run directory, instead of output.dir")->type_name("DIR");
  app.add_flag("--resume", options->resume, "Continue from the newest good checkpoint in the run directory");
  app.add_option("--steps", options->steps, "Stop after this step; the schedule stays that of train.steps")
      ->transform(number<std::int64_t>(at_least(1)))
      ->type_name("N");
  app.add_option("--threads", options->threads, "Of a rank, instead of train.threads; 0: its share of the cores")
      ->transform(number<std::int64_t>(between(0, 4096)))
      ->type_name("N");
  app.add_option("--dump-gradients", options->dump_gradients,
                 "Write the last step's gradients, parameters, tokens and loss")
      ->check(in_a_folder())
      ->type_name("OUT.h5");
  app.add_flag("--debug-step", options->debug_step,
               "Where a step is not finite, name the first operation that gave such a value; steps take longer");
  app.footer(app.get_footer() +
             "Exit code 3: a signal (Ctrl-C, SIGTERM, SIGUSR1, ...) stopped it and it saved; --resume goes on\n"
             "(docs/runs.md, also for what mpirun makes of it).\n");
  return options;
}

void CommandLine::train(std::function<int(const TrainOptions&)> run) {
  add_training(command("train", "Train a model on text",
                       "limbeck train examples/tiny_moe.textproto --set train.steps=20 --out runs/first\n"
                       "  limbeck train BASE.textproto MORE.textproto --set train.tokens=1e8 --set data.text+=FOLDER"),
               std::move(run));
}

void CommandLine::distill(std::function<int(const TrainOptions&)> run) {
  CLI::App& app =
      command("distill", "Train a student to match a teacher",
              "mpirun --bind-to none -n 2 limbeck distill examples/distill_smollm2.textproto\n"
              "  mpirun --bind-to none -n 2 limbeck distill examples/distill_smollm2.textproto --resume --verbose");
  const auto options = add_training(app, std::move(run));
  app.add_flag("--baseline", options->baseline,
               "Then train the same student on the text alone, in DIR/baseline, and compare the two");
}

void CommandLine::cache_teacher(std::function<int(const CacheTeacherOptions&)> run) {
  CLI::App& app =
      command("cache-teacher", "Keep what a teacher says of a text, for runs that learn from it",
              "mpirun --bind-to none -n 2 limbeck cache-teacher CONFIG.textproto --out caches/mine\n"
              "  mpirun --bind-to none -n 2 limbeck distill CONFIG.textproto --set teacher.cache=caches/mine\n"
              "What is there is not done again: an interrupted one goes on, and another text is added.\n"
              "Several processes may write a share each (--share 0/8, 1/8, ...), one without it closes the cache.");
  const auto options = bind<CacheTeacherOptions>(app, std::move(run));
  add_config(app, *options, "Config of a distillation, or its run directory");
  app.add_option("--out", options->out, "Folder of the cache, instead of teacher.cache")->type_name("DIR");
  app.add_option("--threads", options->threads, "Of a rank, instead of train.threads; 0: its share of the cores")
      ->transform(number<std::int64_t>(between(0, 4096)))
      ->type_name("N");
  CLI::Option* share =
      app.add_option("--share", options->share,
                     "Write the I-th of N shares of what is missing, I from 0, and leave the cache open")
          ->type_name("I/N");
  app.add_flag("--verify", options->verify, "Read the whole cache again and hold it against its hashes")
      ->excludes(share);
}

void CommandLine::verify(std::function<int(const VerifyOptions&)> run) {
  CLI::App& app =
      command("verify", "Hold a run's numbers under parallel layouts against those of one rank",
              "limbeck verify examples/tiny_moe.textproto\n"
              "  limbeck verify CONFIG.textproto --layouts tp2ep2,dp2+batch.micro_batches=3 --precision float64\n"
              "  mpirun --bind-to none -n 8 limbeck verify CONFIG.textproto --layouts auto --json\n"
              "Exit code 1: a layout differs by more than the tolerance (docs/parallelism.md).");
  const auto options = bind<VerifyOptions>(app, std::move(run));
  add_config(app, *options);
  app.add_option("--layouts", options->layouts, "LAYOUT or LAYOUT+A.B=VALUE..., by commas; auto: a set that covers all")
      ->type_size(1)
      ->allow_extra_args(false)
      ->delimiter(',')
      ->type_name("LIST")
      ->default_str("auto");
  app.add_option("--ranks", options->ranks,
                 "Ranks that are threads; otherwise as many as a layout names, or 4; under mpirun its ranks")
      ->transform(number<int>(between(1, 256)))
      ->type_name("N");
  app.add_option("--steps", options->steps, "Optimizer steps that are compared")
      ->transform(number<std::int64_t>(between(1, 1000)))
      ->capture_default_str();
  app.add_option("--tolerance", options->tolerance, "Largest relative difference; else 1e-5, in float64 1e-11")
      ->transform(number<double>(at_least(0)))
      ->type_name("X");
  app.add_option_function<std::string>(
         "--precision", [options](const std::string& name) { options->is_float64 = name == "float64"; },
         "What is computed in, whatever the config says")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->default_str("float32");
  app.add_option("--threads", options->threads, "Of a rank, instead of train.threads; 0: its share of the cores")
      ->transform(number<std::int64_t>(between(0, 4096)))
      ->type_name("N");
  app.add_flag("--json", options->json, "Print one JSON object");
}

void CommandLine::plan(std::function<int(const PlanOptions&)> run) {
  CLI::App& app = command("plan", "Say what a run takes before it starts: memory, traffic, time, energy and cost",
                          "limbeck plan CONFIG.textproto --ranks 8 --cluster examples/clusters/h100_node.textproto\n"
                          "  mpirun --bind-to none -n 2 limbeck plan --calibrate\n"
                          "Nothing is launched, and no text and no weights are read (docs/plan.md).");
  const auto options = bind<PlanOptions>(app, std::move(run));
  CLI::Option* config = add_config(app, *options)->required(false);
  CLI::Option* ranks = app.add_option("--ranks", options->ranks, "Ranks of the run, a device each")
                           ->transform(number<int>(between(1, 16384)))
                           ->type_name("N");
  app.add_option("--cluster", options->cluster, "Devices, links and prices: for times, costs, layouts")
      ->type_name("FILE");
  app.add_option("--skew", options->skew, "Zipf's exponent of experts' loads, or a run with such")->type_name("S");
  app.add_flag("--json", options->json, "Print one JSON object");
  CLI::Option* calibrate = app.add_option("--calibrate", options->calibrated,
                                          "Measure this machine, for plans of as many ranks on it as this is run with")
                               ->expected(0, 1)
                               ->excludes(config)
                               ->excludes(ranks)
                               ->type_name("[FILE]");
  app.parse_complete_callback([=] {
    options->calibrates = calibrate->count() > 0;
    for (const CLI::Option* needed : {config, ranks})
      if (!options->calibrates && needed->count() == 0) throw CLI::RequiredError(needed->get_name());
  });
}

void CommandLine::report(std::function<int(const ReportOptions&)> run) {
  CLI::App& app = command("report", "Write the curves and figures of runs as one web page that needs no network",
                          "limbeck report runs/distill_smollm2\n"
                          "  limbeck report runs/small_rate runs/large_rate --out rates.html");
  const auto options = bind<ReportOptions>(app, std::move(run));
  app.add_option("RUN_DIR", options->runs, "Run directories, all in one page; the runs may still be going on")
      ->required();
  app.add_option("--out", options->out, "The page, instead of RUN_DIR/report.html, or comparison.html of several runs")
      ->type_name("FILE.html");
  app.add_flag("--force", options->force, "Replace FILE.html where it is no such page");
  app.add_option("--cluster", options->cluster, "Devices, power and prices, for what is planned and what it cost")
      ->type_name("FILE");
}

void CommandLine::watch(std::function<int(const WatchOptions&)> run) {
  CLI::App& app = command("watch", "Follow runs in a browser on this machine while they go on",
                          "limbeck watch runs/distill_smollm2\n"
                          "  limbeck watch runs/a runs/b --port 9000");
  const auto options = bind<WatchOptions>(app, std::move(run));
  app.add_option("RUN_DIR", options->runs, "Run directories, all in one page")->required();
  app.add_option("--port", options->port, "Of 127.0.0.1; 0: any that is free")
      ->transform(number<std::int64_t>(between(0, 65535)))
      ->type_name("N");
}

void CommandLine::compare(std::function<int(const CompareOptions&)> run) {
  CLI::App& app = command("compare", "Set runs side by side: how far, how well, how fast, and by which config",
                          "limbeck compare runs/small_rate runs/large_rate\n"
                          "  limbeck compare runs/* --json");
  const auto options = bind<CompareOptions>(app, std::move(run));
  app.add_option("RUN", options->runs, "Run directories; they may still be going on")->required();
  app.add_flag("--json", options->json, "Print one JSON object");
}

Invocation CommandLine::parse(int argc, const char* const* argv) {
  std::vector<std::string> names;
  for (const CLI::App* app : app_->get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(app->get_name());
  if (argc > 1 && argv[1][0] != '-' && std::find(names.begin(), names.end(), argv[1]) == names.end())
    fail_usage("there is no command '{}', expected one of {}", argv[1], fmt::join(names, ", "));
  if (argc > 0) program_ = argv[0];
  for (int i = 0; i < argc; ++i) command_line_ += (i > 0 ? " " : "") + shell_quoted(argv[i]);
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (launch_ && !arguments.empty() && arguments[0] == "launch") arguments = own_of_launch(arguments);
  arguments = with_empty_values_apart(arguments);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    app_->parse(std::move(arguments));
  } catch (const CLI::CallForAllHelp&) {
    return {{}, fields_as_text()};
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app_->get_subcommands();
    return {{},
            chosen.empty() ? help_text(*app_, "limbeck")
                           : help_text(*chosen.front(), "limbeck " + chosen.front()->get_name())};
  } catch (const CLI::CallForVersion& version) {
    return {{}, std::string(version.what()) + "\n"};
  } catch (const CLI::ParseError& error) {
    const auto chosen = app_->get_subcommands();
    const std::string name = chosen.empty() ? "limbeck" : "limbeck " + chosen.front()->get_name();
    std::string what = error.what();
    std::replace(what.begin(), what.end(), '\n', ' ');
    fail_usage("{} (see {} --help)", what, name);
  }
  return {chosen_, {}};
}

}  // namespace limbeck::launch
