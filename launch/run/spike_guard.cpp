#include "launch/run/spike_guard.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/counted.h"
#include "launch/run/step_failed.h"

namespace limbeck::launch {
namespace {

constexpr double deviation_of_median_distance = 1.4826;  // 1 / the normal distribution's 75 % quantile
constexpr double least_relative_deviation = 0.01;

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  if (values.size() % 2 != 0) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::string refused_beside(const char* what, double value, const std::deque<double>& taken, const GuardConfig& config) {
  if (!std::isfinite(value)) return fmt::format("its {} is not finite", what);
  if (std::ssize(taken) < config.window) return "";
  std::vector<double> values(taken.begin(), taken.end());
  const double median = median_of(values);
  for (double& v : values) v = std::abs(v - median);
  const double deviation = std::max(deviation_of_median_distance * median_of(std::move(values)),
                                    least_relative_deviation * std::abs(median));
  if (value <= median + config.deviations * deviation) return "";
  return fmt::format("its {} is {:.6g}, {:.1f} deviations of {:.3g} above the median {:.6g} of the last {} steps", what,
                     value, (value - median) / deviation, deviation, median, config.window);
}

void keep_last(std::deque<double>& values, std::int64_t most) {
  while (std::ssize(values) > most) values.pop_front();
}

void add(std::deque<double>& values, double value, std::int64_t most) {
  values.push_back(value);
  keep_last(values, most);
}

}  // namespace

nlohmann::json to_json(const GuardState& state) {
  return {{"losses", state.losses},           {"norms", state.norms},       {"refused", state.refused},
          {"rolled_back", state.rolled_back}, {"furthest", state.furthest}, {"in_vain", state.in_vain}};
}

GuardState guard_state_from_json(const data::JsonAt& json) {
  constexpr std::uint64_t most = std::uint64_t{1} << 62U;
  const auto numbers = [&](const char* name) {
    const data::JsonAt list = json.at(name);
    std::deque<double> values;
    for (std::size_t i = 0; i < list.array().size(); ++i) values.push_back(list.at(i).number());
    return values;
  };
  return {.losses = numbers("losses"),
          .norms = numbers("norms"),
          .refused = json.at("refused").index(most),
          .rolled_back = json.at("rolled_back").index(most),
          .furthest = json.at("furthest").index(most),
          .in_vain = json.at("in_vain").index(most)};
}

std::string SpikeGuard::refuses(double loss, double norm) const {
  const std::string of_loss = refused_beside("loss", loss, state_.losses, config_);
  return of_loss.empty() ? refused_beside("gradient norm", norm, state_.norms, config_) : of_loss;
}

void SpikeGuard::take(std::int64_t step, double loss, double norm) {
  add(state_.losses, loss, config_.window);
  add(state_.norms, norm, config_.window);
  if (step >= state_.furthest) state_.in_vain = 0;
}

void SpikeGuard::refuse(std::int64_t step, const std::string& why) {
  ++state_.refused;
  state_.furthest = std::max(state_.furthest, step);
  if (++state_.in_vain > config_.most)
    throw StepFailed(fmt::format(
        "step {} is refused, {}: {} were refused since the run last got further, expected {} at most (guard.most)",
        step, why, core::counted(state_.in_vain, "step"), config_.most));
}

void SpikeGuard::load(GuardState state) {
  state_ = std::move(state);
  keep_last(state_.losses, config_.window);
  keep_last(state_.norms, config_.window);
}

void SpikeGuard::go_back(const GuardState& state) {
  GuardState now = state_;
  now.losses = state.losses;
  now.norms = state.norms;
  ++now.rolled_back;
  load(std::move(now));
}

}  // namespace limbeck::launch
