#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace limbeck::optim {
namespace {

/// The part of the way from the last rate to the peak, when `u` of the decay has passed.
double remaining(Schedule::Decay decay, double u) {
  switch (decay) {
    case Schedule::Decay::Linear:
      return 1 - u;
    case Schedule::Decay::Cosine:
      return (1 + std::cos(std::numbers::pi * u)) / 2;
    case Schedule::Decay::OneMinusSqrt:
      return 1 - std::sqrt(u);
  }
  core::fail("schedule: no such decay");
}

}  // namespace

void Schedule::check_valid() const {
  const auto require = [](bool condition, const char* field, auto value, const char* expected) {
    if (!condition) core::fail_usage("schedule: {} is {}, expected {}", field, value, expected);
  };
  require(peak_rate >= 0 && std::isfinite(peak_rate), "the peak rate", peak_rate, "0 or more");
  require(warmup_steps >= 0, "warmup_steps", warmup_steps, "0 or more");
  require(num_steps >= 1, "the number of steps", num_steps, "1 or more");
  require(final_fraction >= 0 && final_fraction <= 1, "final_rate_fraction", final_fraction, "0 to 1");
  require(decay_fraction >= 0 && decay_fraction <= 1, "decay_fraction", decay_fraction, "0 to 1");
}

double Schedule::rate(std::int64_t step) const {
  core::check(step >= 1, "schedule: step is {}, expected 1 or more", step);
  if (step < warmup_steps) return peak_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
  std::int64_t start = warmup_steps;
  Decay shape = kind == Kind::Linear ? Decay::Linear : Decay::Cosine;
  if (kind == Kind::WarmupStableDecay) {
    start = std::max<std::int64_t>(start, num_steps - std::llround(decay_fraction * static_cast<double>(num_steps)));
    shape = decay;
  }
  if (kind == Kind::Constant || step <= start) return peak_rate;
  if (step >= num_steps) return peak_rate * final_fraction;
  const double u = static_cast<double>(step - start) / static_cast<double>(num_steps - start);
  return peak_rate * (final_fraction + (1 - final_fraction) * remaining(shape, u));
}

}  // namespace limbeck::optim
