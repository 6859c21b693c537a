// What this machine could do at most, and what the process has used of it.
//
//     const double peak = measure_peak_flops(threads);      // about 0.1 s
//     metrics["mfu"] = flops / seconds / peak;
#pragma once

#include <cstdint>

namespace limbeck::launch {

/// Float32 fused multiply-add rate of `threads` threads at once, FLOP/s: the best of a few short runs.
double measure_peak_flops(int threads);

/// Most memory this process has had resident, bytes (VmHWM); 0 where the system does not say.
std::int64_t peak_resident_bytes();

}  // namespace limbeck::launch
