// The processor's float32 fused multiply-add rate: the ceiling that a run's speed is measured against.
//
//     double seconds = time(fma_loop(cpu, n));           // on the calling thread alone
//     double flops = fma_loop_flops(n) / seconds;
#pragma once

#include <cstdint>

#include "kernels/cpu.h"

namespace limbeck::kernels {

/// Runs `iterations` rounds of independent multiply-adds in registers, of the widest vectors of this build. Returns
/// their sum.
float fma_loop(const Cpu& cpu, std::int64_t iterations);

/// Floating-point operations in that: two a multiply-add.
double fma_loop_flops(std::int64_t iterations);

}  // namespace limbeck::kernels
