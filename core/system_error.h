// Errors of calls to the system, with its reason behind the message: "FILE: cannot be written: No space left on
// device".
//
//     check_system(::rename(from, to) == 0, "{}: cannot be renamed to {}", from, to);
//
// The one place that reads errno for a message: as an argument beside the call it might be read before the call.
#pragma once

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace limbeck::core {

template <class... Args>
void check_system(bool succeeded, fmt::format_string<Args...> format, Args&&... args) {
  if (succeeded) return;
  const int reason = errno;
  fail("{}: {}", fmt::format(format, std::forward<Args>(args)...), std::strerror(reason));
}

}  // namespace limbeck::core
