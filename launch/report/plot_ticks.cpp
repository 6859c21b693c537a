// Where axes have their ticks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launch/report/plot.h"

namespace limbeck::launch {

std::vector<double> round_ticks(double low, double high, int most, double least_step) {
  double step = 0;
  // From the power of ten below the finest step that could do, upwards.
  double power = std::pow(10, std::floor(std::log10((high - low) / most)));
  while (step == 0) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double candidate = factor * power;
      const double count = std::floor(high / candidate + 1e-9) - std::ceil(low / candidate - 1e-9) + 1;
      if (count > most || candidate < least_step) continue;
      step = candidate;
      break;
    }
    power *= 10;
  }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i <= std::floor(high / step + 1e-9); ++i)
    ticks.push_back(i * step + 0.0);
  if (ticks.empty()) ticks.push_back(low);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  const int first = static_cast<int>(std::floor(std::log10(low)));
  const int last = static_cast<int>(std::floor(std::log10(high)));
  const bool has_fives = last - first <= 3;
  const int stride = 1 + (last - first) / 8;
  std::vector<double> ticks;
  for (int exponent = first; exponent <= last; exponent += stride)
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10, exponent);
      if ((factor == 1 || has_fives) && tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    }
  return ticks;
}

std::string tick_text(double value, double step, double largest) {
  if (value == 0) return "0";
  const auto in = [&](double unit, const std::string& suffix) {
    const double finest = (step > 0 ? step : std::abs(value)) / unit;
    const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(finest) - 1e-9)), 0, 12);
    return fmt::format("{:.{}f}{}", value / unit, digits, suffix);
  };
  if (largest < 1e-3 || largest >= 1e12) {
    const int exponent = static_cast<int>(std::floor(std::log10(largest) + 1e-9));
    return in(std::pow(10, exponent), fmt::format("e{}", exponent));
  }
  if (largest >= 1e9) return in(1e9, "G");
  if (largest >= 1e6) return in(1e6, "M");
  if (largest >= 1e4) return in(1e3, "k");
  return in(1, "");
}

}  // namespace limbeck::launch
