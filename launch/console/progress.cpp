#include "launch/console/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "launch/console/console.h"
#include "launch/console/streams.h"

namespace limbeck::launch {

namespace {
constexpr std::chrono::milliseconds live_interval{100};
constexpr std::chrono::seconds row_interval{1};
constexpr std::size_t bar_width = 20;
constexpr std::size_t column_width = 10;
constexpr std::size_t time_width = 14;
}  // namespace

std::string fixed(double value, int decimals) {
  const std::string text = fmt::format("{:.{}f}", value, decimals);
  const bool is_zero = text.find_first_not_of("-0.") == std::string::npos;
  return is_zero && text.starts_with('-') ? text.substr(1) : text;
}

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
      log_every_steps_(std::max<std::int64_t>(log_every_steps, 1)) {}

void Progress::update(std::int64_t step, const std::vector<Figure>& figures) {
  if (!log_->should_log(spdlog::level::info)) return;
  const auto now = Clock::now();
  const bool is_last = step >= last_step_;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = elapsed / static_cast<double>(std::max<std::int64_t>(step - first_step_, 1)) *
                      static_cast<double>(last_step_ - step);
  const bool row_is_due = is_last || (step % log_every_steps_ == 0 && now - last_row_ >= row_interval);
  if (row_is_due) last_row_ = now;
  if (!error_console().is_terminal) {
    if (!row_is_due) return;
    std::string line = fmt::format("{} {}/{}", unit_, step, last_step_);
    for (const Figure& figure : figures) line += fmt::format("  {} {}", figure.name, figure.value);
    log_->info("{}  {} left", line, duration_text(left));
    return;
  }
  if (row_is_due) print_row(step, figures, elapsed);
  if (is_last || row_is_due || now - last_live_ >= live_interval) {
    last_live_ = now;
    print_live_line(step, figures, left);
  }
}

void Progress::print_row(std::int64_t step, const std::vector<Figure>& figures, double elapsed) {
  const std::size_t step_width = std::max(unit_.size(), fmt::formatted_size("{}", last_step_));
  const auto width = [](const Figure& figure) { return std::max(figure.name.size() + 2, column_width); };
  if (!std::exchange(has_header_, true)) {
    std::string header = fmt::format("{:>{}}", unit_, step_width);
    for (const Figure& figure : figures) header += fmt::format("{:>{}}", figure.name, width(figure));
    header += fmt::format("{:>{}}", "time", time_width);
    print_note("{}{}{}{}\n", clear_line, error_console().has_colour ? "\x1b[1m" : "", header,
               error_console().has_colour ? "\x1b[0m" : "");
  }
  std::string row = fmt::format("{:>{}}", step, step_width);
  for (const Figure& figure : figures) row += fmt::format("{:>{}}", figure.value, width(figure));
  print_note("{}{}{:>{}}\n", clear_line, row, duration_text(elapsed), time_width);
}

void Progress::print_live_line(std::int64_t step, const std::vector<Figure>& figures, double left) {
  const double done =
      last_step_ > 0 ? std::clamp(static_cast<double>(step) / static_cast<double>(last_step_), 0., 1.) : 1;
  const auto filled = static_cast<std::size_t>(done * bar_width);
  std::string line = fmt::format("{} {}/{} [{}{}] {:.0f} %  {} left", unit_, step, last_step_, std::string(filled, '#'),
                                 std::string(bar_width - filled, '.'), std::floor(100 * done), duration_text(left));
  for (const Figure& figure : figures) line += fmt::format("  {} {}", figure.name, figure.value);
  // A line that wraps could not be taken back.
  line.resize(std::min(line.size(), static_cast<std::size_t>(std::max(error_console().columns - 1, 0))));
  print_note("{}{}", clear_line, line);
  is_line_open_ = true;
}

void Progress::finish() {
  if (std::exchange(is_line_open_, false)) write_note("\n");
}

}  // namespace limbeck::launch
