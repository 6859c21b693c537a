// Pauses between the questions of who asks again and again: none at first, then such as cost no core and little time.
//
//     for (Polling polling; !is_done(event); polling.pause()) ...
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace limbeck::kernels {

class Polling {
 public:
  void pause() {
    if (std::chrono::steady_clock::now() - begin_ < eager) return;
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(2 * pause_, longest);
  }

 private:
  static constexpr std::chrono::microseconds eager{2000}, longest{100};
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::chrono::microseconds pause_{20};
};

}  // namespace limbeck::kernels
