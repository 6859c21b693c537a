// The learning rate as a pure function of the step, so that a resumed run needs no state of it.
//
//     Schedule schedule{.peak_rate = 1e-3, .warmup_steps = 10, .num_steps = 1000, .final_fraction = 0.1};
//     schedule.check_valid();
//     for (std::int64_t step = 1; step <= 1000; ++step) adamw.step(schedule.rate(step));
#pragma once

#include <cstdint>

namespace limbeck::optim {

struct Schedule {
  enum class Kind : std::uint8_t { Cosine, Constant, Linear, WarmupStableDecay };
  enum class Decay : std::uint8_t { Linear, Cosine, OneMinusSqrt };

  Kind kind = Kind::Cosine;  // after the warm-up
  double peak_rate = 1e-3;
  std::int64_t warmup_steps = 0;  // the rate rises linearly from 0 (at step 0) to the peak (at this step)
  std::int64_t num_steps = 1;     // of the run: the decay ends there
  double final_fraction = 0.1;    // of the peak rate, at step num_steps, 0 to 1
  // Of WarmupStableDecay: the last steps, round(decay_fraction * num_steps) of them, and how the rate falls in them.
  double decay_fraction = 0.2;
  Decay decay = Decay::OneMinusSqrt;

  /// Throws UsageError where a field is out of range.
  void check_valid() const;

  /// The rate of a step, counted from 1: after the warm-up peak * (final + (1 - final) * f(u)), where u runs from 0 at
  /// the end of the warm-up (of the plateau, for WarmupStableDecay) to 1 at num_steps; later steps keep the last rate.
  /// f(u) is (1 + cos(pi * u)) / 2 (Loshchilov and Hutter, 2017), 1 - u, or 1 - sqrt(u) (Haegele et al., 2024).
  double rate(std::int64_t step) const;
};

}  // namespace limbeck::optim
