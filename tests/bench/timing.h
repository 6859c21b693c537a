// The time of a piece of work, for the benchmarks.
//
//     const double t = seconds([&] { kernels::gemm(...); });
#pragma once

#include <algorithm>
#include <chrono>

namespace limbeck::bench {

/// The least of the times that f took, of `least` and, up to 1000, as many as come in `span` seconds; after one that is
/// not timed.
template <class F>
double seconds(F&& f, int least = 5, double span = 1) {
  using Clock = std::chrono::steady_clock;
  f();
  double best = 1e9, total = 0;
  for (int i = 0; i < least || (total < span && i < 1000); ++i) {
    const auto start = Clock::now();
    f();
    const double t = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, t);
    total += t;
  }
  return best;
}

}  // namespace limbeck::bench
