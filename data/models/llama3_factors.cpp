#include "data/models/llama3_factors.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/nn/rope_scaling.h"

namespace limbeck::data {
namespace {

using Scaling = nn::RopeScaling;

constexpr double tolerance = 1e-5;
constexpr std::int64_t llama_positions = 8192;

bool gives(const Scaling& scaling, std::span<const double> frequencies, std::span<const float> factors) {
  std::vector<double> scaled(frequencies.begin(), frequencies.end());
  nn::stretch_as_llama3(scaled, scaling);
  for (std::size_t i = 0; i < factors.size(); ++i)
    if (!(std::abs(frequencies[i] / scaled[i] - factors[i]) <= tolerance * factors[i])) return false;
  return true;
}

/// The plain part of a frequency f is slope f + start, cut to 0 and 1.
struct Line {
  double slope, start;
};

/// Through the frequencies that are parts of both, or between those that are none. The factors are 1, then such as are
/// parts of both, then the greatest.
std::optional<Line> line_of(std::span<const double> frequencies, std::span<const float> factors, double greatest) {
  const auto plain = [&](std::size_t i) { return (1 / factors[i] - 1 / greatest) / (1 - 1 / greatest); };
  const std::size_t count = factors.size();
  std::size_t begin = 0, end = count;  // of those between
  while (begin < count && factors[begin] <= 1 + tolerance) ++begin;
  while (end > begin && factors[end - 1] >= greatest * (1 - tolerance)) --end;
  if (end - begin > 1) {
    const double slope = (plain(begin) - plain(end - 1)) / (frequencies[begin] - frequencies[end - 1]);
    return Line{slope, plain(begin) - slope * frequencies[begin]};
  }
  if (end == begin) {  // 1 before, the greatest from here on
    if (begin == 0 || end == count) return std::nullopt;
    const double slope = 1 / (frequencies[begin - 1] - frequencies[begin]);
    return Line{slope, -slope * frequencies[begin]};
  }
  // One between: the line falls steeply enough to be 1 at the one before and 0 at the one behind.
  double slope = 0;
  if (begin > 0) slope = (1 - plain(begin)) / (frequencies[begin - 1] - frequencies[begin]);
  if (end < count) slope = std::max(slope, plain(begin) / (frequencies[begin] - frequencies[end]));
  return Line{slope, plain(begin) - slope * frequencies[begin]};
}

/// That line with so many positions: turns within them are positions f / (2 pi), of which low_frequency_factor give 0.
Scaling with_positions(double factor, const Line& line, std::int64_t positions) {
  const double range = static_cast<double>(positions) / (2 * std::numbers::pi * line.slope);
  const double low = -line.start * range;
  return {.kind = Scaling::Kind::Llama3,
          .factor = factor,
          .original_positions = positions,
          .low_frequency_factor = low,
          .high_frequency_factor = low + range};
}

/// What rounding to float32 may have made of it.
double tidied(double x) {
  for (const double parts : {1.0, 1000.0})
    if (const double near = std::round(x * parts) / parts; std::abs(near - x) <= tolerance * std::abs(x)) return near;
  return x;
}

}  // namespace

std::optional<Scaling> fit_llama3(std::span<const double> frequencies, std::span<const float> factors) {
  if (factors.empty() || frequencies.size() != factors.size()) return std::nullopt;
  const double greatest = tidied(*std::max_element(factors.begin(), factors.end()));
  if (!std::isfinite(greatest) || greatest <= 1) return std::nullopt;
  const Scaling usual{.kind = Scaling::Kind::Llama3, .factor = greatest, .original_positions = llama_positions};
  if (gives(usual, frequencies, factors)) return usual;
  const auto is_greatest = [&](float x) { return std::abs(x - greatest) <= tolerance * greatest; };
  if (std::ranges::all_of(factors, is_greatest)) return Scaling{.kind = Scaling::Kind::Linear, .factor = greatest};
  const std::optional<Line> line = line_of(frequencies, factors, greatest);
  if (!line || line->slope <= 0 || line->start >= 0) return std::nullopt;
  const double of_one = -2 * std::numbers::pi * line->slope / line->start;  // positions with low_frequency_factor 1
  std::vector<Scaling> candidates;
  if (std::abs(std::round(of_one) - of_one) <= 1e-4 * of_one && of_one >= 1 && of_one < 1e12) {
    candidates.push_back(with_positions(greatest, *line, std::llround(of_one)));
    candidates.front().low_frequency_factor = 1;
    candidates.front().high_frequency_factor = tidied(candidates.front().high_frequency_factor);
  }
  candidates.push_back(with_positions(greatest, *line, llama_positions));
  for (const Scaling& scaling : candidates)
    if (gives(scaling, frequencies, factors)) return scaling;
  return std::nullopt;
}

}  // namespace limbeck::data
