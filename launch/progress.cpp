#include "launch/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace limbeck::launch {

namespace {
constexpr std::chrono::milliseconds terminal_interval{100};
constexpr std::chrono::seconds log_interval{1};
}  // namespace

std::string duration_text(double seconds) {
  const auto s = static_cast<std::int64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

Progress::Progress(Log log, std::string unit, std::int64_t first_step, std::int64_t last_step,
                   std::int64_t log_every_steps)
    : log_(std::move(log)),
      unit_(std::move(unit)),
      first_step_(first_step),
      last_step_(last_step),
      log_every_steps_(std::max<std::int64_t>(log_every_steps, 1)),
      is_terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::update(std::int64_t step, const std::string& what) {
  if (!log_->should_log(spdlog::level::info)) return;
  const auto now = Clock::now();
  const bool is_last = step >= last_step_;
  if (!is_last) {
    if (is_terminal_ ? now - last_line_ < terminal_interval
                     : step % log_every_steps_ != 0 || now - last_line_ < log_interval)
      return;
  }
  last_line_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = elapsed / static_cast<double>(std::max<std::int64_t>(step - first_step_, 1)) *
                      static_cast<double>(last_step_ - step);
  const std::string line = fmt::format("{} {}/{}  {}  {} left", unit_, step, last_step_, what, duration_text(left));
  if (is_terminal_) {
    fmt::print(stderr, "\r{}\x1b[K", line);
    std::fflush(stderr);
    is_line_open_ = true;
  } else {
    log_->info("{}", line);
  }
}

void Progress::finish() {
  if (std::exchange(is_line_open_, false)) fmt::print(stderr, "\n");
}

}  // namespace limbeck::launch
