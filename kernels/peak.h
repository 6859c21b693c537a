// The rates that a run's speed is measured against: of float32 fused multiply-adds, and of bfloat16 products.
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

/// Runs `iterations` products of bfloat16 matrices that lie in the first cache, by the fastest tile product
/// (build_info.h names it). Returns an element of the last.
float bf16_loop(const Cpu& cpu, std::int64_t iterations);

/// Floating-point operations in that.
double bf16_loop_flops(std::int64_t iterations);

}  // namespace limbeck::kernels
