#include "optim/schedule.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace limbeck::optim {

void Schedule::check_valid() const {
  const auto require = [](bool condition, const char* field, auto value, const char* expected) {
    if (!condition) core::fail_usage("schedule: {} is {}, expected {}", field, value, expected);
  };
  require(peak_rate >= 0 && std::isfinite(peak_rate), "the peak rate", peak_rate, "0 or more");
  require(warmup_steps >= 0, "warmup_steps", warmup_steps, "0 or more");
  require(num_steps >= 1, "the number of steps", num_steps, "1 or more");
  require(final_fraction >= 0 && final_fraction <= 1, "final_rate_fraction", final_fraction, "0 to 1");
}

double Schedule::rate(std::int64_t step) const {
  core::check(step >= 1, "schedule: step is {}, expected 1 or more", step);
  if (step < warmup_steps) return peak_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (kind == Kind::Constant || step == warmup_steps) return peak_rate;
  if (step >= num_steps) return peak_rate * final_fraction;
  const double u = static_cast<double>(step - warmup_steps) / static_cast<double>(num_steps - warmup_steps);
  return peak_rate * (final_fraction + (1 - final_fraction) * (1 + std::cos(std::numbers::pi * u)) / 2);
}

}  // namespace limbeck::optim
