// Words of a command that a run recommends, as a shell takes them.
//
//     print_result("Next:\n  {} report {}\n", shell_path(program), shell_path(run));   // 'my runs/first'
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

/// A path; one that begins as an option does, from the current folder on.
inline std::string shell_path(std::string_view path) {
  return shell_quoted(path.starts_with('-') ? "./" + std::string(path) : std::string(path));
}

}  // namespace limbeck::launch
