// Times of what is queued on a GPU.
//
//     Stopwatch stopwatch(memory);
//     const double s = stopwatch.seconds([&] { add(cuda, x, y, z, n); });
#pragma once

#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {

class Stopwatch {
 public:
  /// Tiny: few runs.
  Stopwatch(core::MemoryPtr memory, Sizes sizes);

  /// Of a run: the median of as many as come in a tenth of a second, 5 to 100, queued behind each other, after two that
  /// are not timed. Before each the second cache is overwritten, as other kernels would have done.
  double seconds(const Work& work) const;
  /// Most bytes in tensors during a run, beyond those that are there behind it.
  std::int64_t working_bytes(const Work& work) const;

 private:
  float milliseconds(const Work& work, int runs) const;

  core::MemoryPtr memory_;
  Sizes sizes_;
  core::Tensor flushed_;  // larger than any second cache
};

/// Bytes a second, read and written, of copies within the GPU's memory: the ceiling of what memory bounds.
double copy_rate(const core::MemoryPtr& memory, const Stopwatch& stopwatch, Sizes sizes);
/// FLOP a second of a large product of bfloat16 matrices.
double product_rate(const core::MemoryPtr& memory, const Stopwatch& stopwatch, Sizes sizes);

}  // namespace limbeck::bench
