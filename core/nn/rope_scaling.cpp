#include "core/nn/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/ops/rope.h"

namespace limbeck::nn {
namespace {

constexpr double full_turn = 2 * std::numbers::pi;

/// A part of `stretched`, the rest of `plain`.
double mixed(double plain, double stretched, double part) { return (1 - part) * plain + part * stretched; }

void stretch_as_yarn(std::vector<double>& frequencies, double base, const RopeScaling& s) {
  const auto half = static_cast<double>(frequencies.size());
  // The dimension that turns so often within the original context.
  const auto dimension_of = [&](double turns) {
    return half * std::log(static_cast<double>(s.original_positions) / (turns * full_turn)) / std::log(base);
  };
  double low = dimension_of(s.beta_fast), high = dimension_of(s.beta_slow);
  if (s.truncates) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, 2 * half - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double& f = frequencies[i];
    f = mixed(f, f / s.factor, std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
  }
}

/// What cos and sin are times by LongRoPE's rule.
double usual_long_factor(const RopeScaling& s) {
  if (s.factor <= 1) return 1;
  return std::sqrt(1 + std::log(s.factor) / std::log(static_cast<double>(s.original_positions)));
}

}  // namespace

void stretch_as_llama3(std::vector<double>& frequencies, const RopeScaling& s) {
  const auto original = static_cast<double>(s.original_positions);
  for (double& f : frequencies) {
    const double turns = original * f / full_turn;  // within the original context
    const double plain = (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
    f = mixed(f, f / s.factor, 1 - std::clamp(plain, 0.0, 1.0));
  }
}

double yarn_mscale(double factor, double mscale) { return factor > 1 ? 0.1 * mscale * std::log(factor) + 1 : 1; }

RopeAngles rope_angles(std::int64_t turning_width, double base, const RopeScaling& scaling, bool is_long) {
  RopeAngles angles{core::rope_frequencies(turning_width, base)};
  switch (scaling.kind) {
    case RopeScaling::Kind::None:
      break;
    case RopeScaling::Kind::Linear:
      for (double& f : angles.frequencies) f /= scaling.factor;
      break;
    case RopeScaling::Kind::Llama3:
      stretch_as_llama3(angles.frequencies, scaling);
      break;
    case RopeScaling::Kind::Yarn:
      stretch_as_yarn(angles.frequencies, base, scaling);
      if (scaling.attention_factor > 0)
        angles.factor = scaling.attention_factor;
      else if (scaling.mscale > 0 && scaling.mscale_all > 0)
        angles.factor = yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(scaling.factor, scaling.mscale_all);
      else
        angles.factor = yarn_mscale(scaling.factor, 1);
      break;
    case RopeScaling::Kind::LongRope: {
      const std::vector<double>& factors = is_long ? scaling.long_factors : scaling.short_factors;
      for (std::size_t i = 0; i < factors.size(); ++i) angles.frequencies.at(i) /= factors[i];
      const double own = is_long ? scaling.long_scale : scaling.short_scale;
      angles.factor = own > 0                        ? own
                      : scaling.attention_factor > 0 ? scaling.attention_factor
                                                     : usual_long_factor(scaling);
      break;
    }
  }
  return angles;
}

}  // namespace limbeck::nn
