// The tag that CPU kernels are overloaded on. It carries what they need: a number of threads, and the rank's cache of
// prepared matrix products and scratch memory. Copies share that cache; two ranks must not.
//
//     Cpu cpu = make_cpu(/*threads=*/2);
//     rms_norm(cpu, x, weight, y, inverse_rms, rows, width, eps);
#pragma once

#include <cstdint>
#include <memory>

namespace limbeck::kernels {

struct CpuCache;  // kernels/cpu/cpu_cache.h

struct Cpu {
  /// Whether products of bfloat16 read a right factor as fast where it lies in its own order, so that none is packed
  /// (kernels/packed.h): a float32 one is rounded once for each of its versions.
  static constexpr bool reads_factors_as_they_lie = false;
  static constexpr std::int64_t logits_bytes = 0;  // that a chunk of tokens may have at once, however few tokens it has

  int threads = 1;
  std::shared_ptr<CpuCache> cache;
};

/// A device of `threads` threads with an empty cache. The calling thread becomes its owner: kernels are called from it
/// alone.
Cpu make_cpu(int threads);

}  // namespace limbeck::kernels
