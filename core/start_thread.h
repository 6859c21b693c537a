// A thread, or an error that says what it was to do.
//
//     std::jthread reader = start_thread("reading", [&] { read(); });   // "a thread for reading cannot be started:
//     ..."
#pragma once

#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"

namespace limbeck::core {

template <class F>
std::jthread start_thread(const char* what, F&& f) {
  try {
    return std::jthread(std::forward<F>(f));
  } catch (const std::system_error& error) {
    fail("a thread for {} cannot be started: {} (limits: ulimit -u, ulimit -v)", what, error.code().message());
  }
}

}  // namespace limbeck::core
