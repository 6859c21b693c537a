// Errors: one line that says what, where and what was expected.
//
//     check(w.shape()[0] == C, "rms_norm: weight has shape {}, expected [{}] (x is {})", w.shape(), C, x.shape());
//
// Error ends a command with exit code 1, UsageError with 2. Nothing below launch/ catches them to go on.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace limbeck::core {

/// The work failed: a bad file, tensor or shape, a broken peer. Exit code 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The command, config or layout asked for cannot be right. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// What is said may hold text from outside: a zero byte would end the message there.
inline std::string without_zero_bytes(std::string text) {
  for (std::size_t at = text.find('\0'); at != std::string::npos; at = text.find('\0', at))
    text.replace(at, 1, "\\x00");
  return text;
}

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(without_zero_bytes(fmt::format(format, std::forward<Args>(args)...)));
}

template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(without_zero_bytes(fmt::format(format, std::forward<Args>(args)...)));
}

template <class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(format, std::forward<Args>(args)...);
}

}  // namespace limbeck::core
