// A word of a command that a run recommends, as a shell takes it.
//
//     print_result("Next:\n  {} report {}\n", shell_quoted(program), shell_quoted(run));   // 'my runs/first'
#pragma once

#include <string>
#include <string_view>

namespace limbeck::launch {

/// The word itself where no shell changes it, else within single quotes.
inline std::string shell_quoted(std::string_view word) {
  constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+,=-";
  if (!word.empty() && word.find_first_not_of(plain) == std::string_view::npos) return std::string(word);
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'')
      quoted += "'\\''";
    else
      quoted += c;
  }
  return quoted + "'";
}

}  // namespace limbeck::launch
