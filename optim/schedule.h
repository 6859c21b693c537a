// The learning rate as a pure function of the step, so that a resumed run needs no state of it.
//
//     Schedule schedule{.peak_rate = 1e-3, .warmup_steps = 10, .num_steps = 1000, .final_fraction = 0.1};
//     schedule.check_valid();
//     for (std::int64_t step = 1; step <= 1000; ++step) adamw.step(schedule.rate(step));
#pragma once

#include <cstdint>

namespace limbeck::optim {

struct Schedule {
  enum class Kind : std::uint8_t { Cosine, Constant };

  Kind kind = Kind::Cosine;  // after the warm-up
  double peak_rate = 1e-3;
  std::int64_t warmup_steps = 0;  // the rate rises linearly from 0 (at step 0) to the peak (at this step)
  std::int64_t num_steps = 1;     // of the run: the cosine ends there
  double final_fraction = 0.1;    // of the peak rate, at step num_steps of the cosine, 0 to 1

  /// Throws UsageError where a field is out of range.
  void check_valid() const;

  /// The rate of a step, counted from 1. Cosine (Loshchilov and Hutter, 2017): with u running from 0 at the end of the
  /// warm-up to 1 at num_steps, peak * (final + (1 - final) * (1 + cos(pi * u)) / 2); later steps keep the last rate.
  double rate(std::int64_t step) const;
};

}  // namespace limbeck::optim
