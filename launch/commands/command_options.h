// What the commands' options are made with. Internal to the command line.
//
//     const auto options = bind<PlanOptions>(app, std::move(run));
//     app.add_option("--ranks", options->ranks, "Ranks of the run")->transform(number<int>(between(1, 16384)));
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <charconv>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "launch/commands/command_line.h"
#include "launch/config/config_fields.h"
#include "launch/config/config_spelling.h"

namespace limbeck::launch {

/// A T within the range, and nothing else: CLI11's own checks let nan and -1 for an unsigned number through.
template <class T>
CLI::Validator number(const Range& range) {
  const auto problem = [range](std::string& text) -> std::string {
    if (std::is_integral_v<T>) text = whole_number(text).value_or(text);
    T value{};
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc{} && stop == end && range.contains(static_cast<double>(value))) {
      if (std::is_integral_v<T>) text = fmt::format("{}", value);  // CLI11 would read 010 as eight
      return "";
    }
    return fmt::format("'{}' is given, expected {}{}", text, std::is_integral_v<T> ? "a whole number, " : "",
                       range.expected);
  };
  return {problem, ""};
}

/// A file that can be made where its folder is there: known before hours of work.
CLI::Validator in_a_folder();

/// Of the commands that work by a config.
void add_config_options(CLI::App& app, std::vector<std::string>& sets);

template <class Options>
std::shared_ptr<Options> CommandLine::bind(CLI::App& app, std::function<int(const Options&)> run) {
  auto options = std::make_shared<Options>();
  app.callback([this, options, run = std::move(run)] {
    if constexpr (requires { options->program; }) options->program = program_;
    if constexpr (requires { options->command_line; }) options->command_line = command_line_;
    chosen_ = [options, run] { return run(*options); };
  });
  CLI::Option* quiet = app.add_flag_callback(
      "--quiet", [options] { options->verbosity = Verbosity::Quiet; }, "Print errors and results only");
  CLI::Option* verbose = app.add_flag_callback(
      "--verbose", [options] { options->verbosity = Verbosity::Verbose; }, "Print times, buckets and memory too");
  quiet->group("What is printed")->excludes(verbose);
  verbose->group("What is printed");
  return options;
}

}  // namespace limbeck::launch
