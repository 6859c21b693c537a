#include "launch/console/numbers.h"

#include <fmt/format.h>

#include <cmath>

namespace limbeck::launch {

std::string grouped(std::int64_t value) {
  const std::string digits = fmt::format("{}", value);
  const std::size_t first = value < 0 ? 1 : 0;
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string short_count(double value) {
  if (value < 1e5) return grouped(std::llround(value));
  if (value < 1e6) return fmt::format("{:.1f}k", value / 1e3);
  if (value < 1e9) return fmt::format("{:.{}f}M", value / 1e6, value < 1e7 ? 2 : 1);
  return fmt::format("{:.2f}G", value / 1e9);
}

}  // namespace limbeck::launch
