#include "tests/support/terminal.h"

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>

#include "core/error.h"

namespace limbeck::testing {

TerminalRun run_in_terminal(const std::string& command, int columns) {
  TerminalRun run;
  run.columns = columns;
  winsize size{};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(columns);
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, &size);
  core::check(child >= 0, "no pseudo-terminal for: {}", command);
  if (child == 0) {
    ::setenv("TERM", "xterm-256color", 1);  // whatever the tests themselves run in
    ::unsetenv("NO_COLOR");
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  std::array<char, 4096> buffer{};
  for (;;) {  // at the end Linux gives an error rather than 0
    const ssize_t n = ::read(terminal, buffer.data(), buffer.size());
    if (n <= 0) break;
    run.output.append(buffer.data(), static_cast<std::size_t>(n));
  }
  ::close(terminal);
  int status = 0;
  ::waitpid(child, &status, 0);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return run;
}

std::vector<std::string> TerminalRun::screen() const {
  std::vector<std::string> lines(1);
  std::size_t at = 0;
  for (std::size_t i = 0; i < output.size(); ++i) {
    const char c = output[i];
    if (c == '\r') {
      at = 0;
    } else if (c == '\n') {
      lines.emplace_back();
      at = 0;
    } else if (c == '\x1b' && i + 1 < output.size() && output[i + 1] == '[') {
      for (i += 2; i < output.size() && std::isalpha(static_cast<unsigned char>(output[i])) == 0;) ++i;
      if (i < output.size() && output[i] == 'K') lines.back().resize(std::min(at, lines.back().size()));
    } else {
      if (at == static_cast<std::size_t>(columns)) {
        lines.emplace_back();
        at = 0;
      }
      std::string& line = lines.back();
      if (at >= line.size()) line.resize(at + 1, ' ');
      line[at++] = c;
    }
  }
  return lines;
}

}  // namespace limbeck::testing
