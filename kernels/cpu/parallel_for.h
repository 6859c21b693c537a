// Splits [0, n) over the device's threads in contiguous parts: f(begin, end). The split depends on n and the number of
// threads alone, so results repeat bit by bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu.h"

namespace limbeck::kernels {

/// `grain`: fewest items that are worth a thread.
template <class F>
void parallel_for(const Cpu& cpu, std::int64_t n, std::int64_t grain, F&& f) {
  const std::int64_t parts = std::clamp<std::int64_t>(n / std::max<std::int64_t>(grain, 1), 1, cpu.threads);
  if (parts == 1) {
    if (n > 0) f(std::int64_t{0}, n);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
  for (std::int64_t part = 0; part < parts; ++part) f(n * part / parts, n * (part + 1) / parts);
}

}  // namespace limbeck::kernels
