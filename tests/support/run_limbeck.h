// Runs the limbeck program as its users do, in a folder of its own with a small text.
//
//     RunFolder folder("resume");
//     Outcome outcome = folder.limbeck("train tiny.textproto --steps 5", /*ranks=*/2);
//     EXPECT_EQ(outcome.code, 0) << outcome.output;
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace limbeck::testing {

struct Outcome {
  int code = 0;
  std::string output;  // stdout and stderr together
  /// Lines that hold `text`.
  std::vector<std::string> lines_with(const std::string& text) const;
};

/// A shell command's exit code and output.
Outcome run_shell(const std::string& command);

/// Shell text that waits, no longer than a minute, until the run directory has so many lines of metrics.
std::string until_metrics(const std::string& run, int lines);

/// Environment of a program, in a shell, that tests/slow_calls makes slow, by what else is said there.
std::string slow_calls();

class RunFolder {
 public:
  /// Empty but for text/ (six short documents) and tiny.textproto, a byte model with experts that trains in a second or
  /// two.
  explicit RunFolder(const std::string& name);
  ~RunFolder();

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& file, const std::string& contents) const;
  std::string read(const std::string& file) const;

  /// The command that runs limbeck here, under mpirun where there are several ranks.
  std::string command(const std::string& arguments, int ranks = 1) const;
  Outcome limbeck(const std::string& arguments, int ranks = 1) const { return run_shell(command(arguments, ranks)); }
  /// What it prints; the test fails unless it ends with 0.
  std::string succeed(const std::string& arguments, int ranks = 1) const;
  /// A run's metrics without the fields that measure time, memory and what ranks exchange.
  std::vector<nlohmann::json> metrics(const std::string& run) const;

 private:
  std::filesystem::path path_;
};

}  // namespace limbeck::testing
