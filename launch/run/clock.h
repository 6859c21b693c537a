// What a part of a step or of a run took.
#pragma once

#include <chrono>
#include <utility>

namespace limbeck::launch {

using Clock = std::chrono::steady_clock;

/// Seconds from `since` to now, and `since` becomes now.
inline double lap(Clock::time_point& since) {
  const auto now = Clock::now();
  return std::chrono::duration<double>(now - std::exchange(since, now)).count();
}

}  // namespace limbeck::launch
