// When a wait for other ranks has taken too long. It is looked at a few times in each deadline; one that only disks
// hold up then has its deadline from there on, so that what follows the disk has its time too.
//
//     WaitLimit limit(deadline, Clock::now());
//     while (!done.wait_until(lock, limit.next_look(), is_done)) {
//       const auto now = Clock::now();
//       if (limit.misses(who_holds_it_up().only_by_disks, now)) stop();
//     }
#pragma once

#include <algorithm>
#include <chrono>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

class WaitLimit {
 public:
  using Clock = std::chrono::steady_clock;

  WaitLimit(Deadline deadline, Clock::time_point since)
      : deadline_(deadline), look_(since + between(deadline)), end_(since + deadline) {}

  /// So much time is between two looks.
  static Deadline between(Deadline deadline) { return deadline / 4 + std::chrono::milliseconds(1); }
  /// The next one, at the end of the deadline at the latest.
  Clock::time_point next_look() const { return std::min(look_, end_); }
  /// Whether the deadline had passed at a look that began `now`. Asking takes time, in which the wait may end.
  bool misses(bool only_by_disks, Clock::time_point now) {
    if (only_by_disks) end_ = now + deadline_;
    look_ = now + between(deadline_);
    return now >= end_;
  }

 private:
  Deadline deadline_;
  Clock::time_point look_, end_;
};

}  // namespace limbeck::parallel
