// What others hear of a rank's waits for disks while it is at work.
//
//     EXPECT_EQ(heard_of(waits, [&] { teacher.take(memory, batch); }), "reads caches/smollm2");
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "parallel/comm/file_waits.h"

namespace limbeck::testing {

/// Does `work` again and again until somebody who asks meanwhile hears something, for ten seconds at most.
inline std::string heard_of(const parallel::FileWaits& waits, const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  std::atomic<bool> is_over = false, has_heard = false;
  std::string heard;
  {
    const std::jthread asks([&] {
      while (heard.empty() && !is_over) heard = waits.now();
      has_heard = true;
    });
    for (const auto until = Clock::now() + std::chrono::seconds(10); !has_heard && Clock::now() < until;) work();
    is_over = true;
  }
  return heard;
}

}  // namespace limbeck::testing
