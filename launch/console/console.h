// What standard error is: a terminal that shows one live line, or a log that keeps every line.
//
//     const Console console = error_console();
//     if (console.is_terminal) print_note("{}{}", clear_line, line.substr(0, console.columns - 1));
#pragma once

#include <string_view>

namespace limbeck::launch {

struct Console {
  bool is_terminal = false;  // one that can move its cursor: TERM is not "dumb"
  bool has_colour = false;   // a terminal, and NO_COLOR is not set (https://no-color.org)
  int columns = 80;
};

/// As it is now: windows change their size.
Console error_console();

/// To the begin of the line, and what is there goes.
inline constexpr std::string_view clear_line = "\r\x1b[K";

}  // namespace limbeck::launch
