#include "launch/console/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace limbeck::launch {

Console error_console() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string_view(value == nullptr ? "" : value);
  };
  Console console;
  console.is_terminal = ::isatty(STDERR_FILENO) == 1 && variable("TERM") != "dumb";
  console.has_colour = console.is_terminal && variable("NO_COLOR").empty();
  winsize size{};
  if (console.is_terminal && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    console.columns = size.ws_col;
  return console;
}

}  // namespace limbeck::launch
