// A command on a terminal of its own, and what is on its screen in the end.
//
//     const TerminalRun run = run_in_terminal(folder.command("train tiny.textproto"), /*columns=*/60);
//     EXPECT_EQ(run.code, 0);
//     for (const std::string& line : run.screen()) ...
#pragma once

#include <string>
#include <vector>

namespace limbeck::testing {

struct TerminalRun {
  int code = 0;
  std::string output;  // every byte that was written, stdout and stderr
  int columns = 80;

  /// The lines as they stay: carriage returns, "clear to the end of the line" and colours are carried out, and a line
  /// that is too long goes on in the next.
  std::vector<std::string> screen() const;
};

/// Runs a shell command whose three standard streams are a new pseudo-terminal of so many columns.
TerminalRun run_in_terminal(const std::string& command, int columns = 80);

}  // namespace limbeck::testing
