// Where a run is and how long is left: one live line on a terminal, a plain line now and then in a log.
//
//     Progress progress(log, "step", /*first_step=*/0, config.train.steps, config.train.log_every_steps);
//     progress.update(step, fmt::format("loss {:.4f}  kl {:.4f}  {:.0f} tokens/s", ...));
//     progress.finish();                                        // before anything else is printed
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "launch/log.h"

namespace limbeck::launch {

class Progress {
 public:
  /// Of the steps (first_step, last_step], which are called `unit`. Says nothing where the log says nothing.
  Progress(Log log, std::string unit, std::int64_t first_step, std::int64_t last_step, std::int64_t log_every_steps);

  /// `step` is done; `what` is shown with it.
  void update(std::int64_t step, const std::string& what);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  Log log_;
  std::string unit_;
  std::int64_t first_step_;
  std::int64_t last_step_;
  std::int64_t log_every_steps_;
  bool is_terminal_;
  bool is_line_open_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_line_{};
};

/// "45 s", "3 min 20 s", "2 h 5 min".
std::string duration_text(double seconds);

}  // namespace limbeck::launch
