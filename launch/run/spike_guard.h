// Which steps are not to be taken: those whose loss or gradient norm lies far above the last ones', or is not finite.
//
//     SpikeGuard guard(config);
//     if (const std::string why = guard.refuses(loss, norm); !why.empty()) {
//       guard.refuse(step);                               // and leave its update out
//     } else {
//       guard.take(step, loss, norm);
//     }
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "data/files/json_at.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// What a checkpoint keeps of it, so that a resumed run refuses what an uninterrupted one does.
struct GuardState {
  std::deque<double> losses, norms;  // of the last steps that were taken, oldest first; GuardConfig::window at most
  std::int64_t refused = 0;          // steps, in all
  std::int64_t rolled_back = 0;      // times that the run went back to a checkpoint
  friend bool operator==(const GuardState&, const GuardState&) = default;
};
nlohmann::json to_json(const GuardState& state);
/// Throws, naming the place, unless it is one of them.
GuardState guard_state_from_json(const data::JsonAt& json);

class SpikeGuard {
 public:
  explicit SpikeGuard(const GuardConfig& config) : config_(config) {}

  /// Why a step of this loss and gradient norm is not to be taken; empty: it is. With as many steps taken as the window
  /// has, x is refused above median + deviations * max(1.4826 median(|x_i - median|), |median| / 100), the deviation of
  /// a normal distribution from its median absolute deviation (Hampel 1974).
  std::string refuses(double loss, double norm) const;

  void take(std::int64_t step, double loss, double norm);
  /// A step that `refuses` named. Throws, with `why`, where it is one more than GuardConfig::most since a later step
  /// than each of them was taken.
  void refuse(std::int64_t step, const std::string& why);

  const GuardState& state() const { return state_; }
  /// Goes on from a checkpoint's.
  void load(GuardState state) { state_ = std::move(state); }
  /// The run is back at a checkpoint's steps; what was counted since stays counted.
  void go_back(GuardState state) {
    state.refused = state_.refused;
    state.rolled_back = state_.rolled_back + 1;
    state_ = std::move(state);
  }

 private:
  GuardConfig config_;
  GuardState state_;
  std::int64_t furthest_refused_ = 0;
  std::int64_t refused_ = 0;  // since a step behind that was taken
};

}  // namespace limbeck::launch
