// What this machine could do at most, and what the process has used of it.
//
//     const double peak = measure_peak_flops(*memory, threads, DType::F32);      // about 0.1 s
//     metrics["mfu"] = flops / seconds / peak;
#pragma once

#include <cstdint>

#include "core/device/memory.h"
#include "core/dtype.h"

namespace limbeck::launch {

/// FLOP/s of `threads` threads at once, the best of a few short runs: of bfloat16 products for that compute type, else
/// of float32 fused multiply-adds.
double measure_peak_flops(int threads, core::DType compute);
/// FLOP/s of the memory's device: that of so many threads, or of a GPU's products in the compute type.
double measure_peak_flops(const core::MemoryPtr& memory, int threads, core::DType compute);

/// Most memory this process has had resident, bytes (VmHWM); 0 where the system does not say.
std::int64_t peak_resident_bytes();

}  // namespace limbeck::launch
