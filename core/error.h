// Errors: one line that says what, where and what was expected.
//
//     check(w.shape()[0] == C, "rms_norm: weight has shape {}, expected [{}] (x is {})", w.shape(), C, x.shape());
//
// Error ends a command with exit code 1, UsageError with 2. Nothing below launch/ catches them to go on.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
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

/// The message, made in one place: every check would else bring the formatting with it.
[[noreturn]] void fail_with(fmt::string_view format, fmt::format_args args);
[[noreturn]] void fail_usage_with(fmt::string_view format, fmt::format_args args);

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  fail_with(format, fmt::make_format_args(args...));
}

template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  fail_usage_with(format, fmt::make_format_args(args...));
}

template <class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(format, std::forward<Args>(args)...);
}

}  // namespace limbeck::core
