// Where a run is and how long is left. On a terminal: a table with a row now and then, and one live line below it; in a
// log: a plain line now and then.
//
//     Progress progress(log, "step", /*first_step=*/0, config.train.steps, config.train.log_every_steps);
//     progress.update(step, {{"loss", "2.5013"}, {"tokens/s", "812"}});
//     progress.finish();                                        // before anything else is printed
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/console/log.h"

namespace limbeck::launch {

struct Figure {
  std::string name;
  std::string value;
};

class Progress {
 public:
  /// Of the steps (first_step, last_step], which are called `unit`. Says nothing where the log says nothing.
  Progress(Log log, std::string unit, std::int64_t first_step, std::int64_t last_step, std::int64_t log_every_steps);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `step` is done; `figures` are shown with it, the same names in the same order each time.
  void update(std::int64_t step, const std::vector<Figure>& figures);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void print_row(std::int64_t step, const std::vector<Figure>& figures, double elapsed);
  void print_live_line(std::int64_t step, const std::vector<Figure>& figures, double left);

  Log log_;
  std::string unit_;
  std::int64_t first_step_;
  std::int64_t last_step_;
  std::int64_t log_every_steps_;
  bool is_line_open_ = false;
  bool has_header_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_live_{};
  Clock::time_point last_row_{};
};

/// "45 s", "3 min 20 s", "2 h 5 min".
std::string duration_text(double seconds);
/// A figure with so many decimals; a zero has no sign.
std::string fixed(double value, int decimals);

}  // namespace limbeck::launch
