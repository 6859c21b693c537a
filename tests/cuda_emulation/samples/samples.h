// Small kernels that the tests of the emulation launch; what they do is in samples/*.cu. Those with a fault do what the
// emulation is to find.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda.h"

namespace limbeck::emulation::samples {

using kernels::Cuda;

/// y[i] = 2 x[i] + 1.
void affine(const Cuda& cuda, const float* x, float* y, std::int64_t n);

/// y[i] = 2^x[i], by the processor's approximation.
void powers_of_2(const Cuda& cuda, const float* x, float* y, int n);

/// sums[row] of x [rows, width], a block a row. Without the barriers some warp reads what another has not written yet.
void row_sums(const Cuda& cuda, const float* x, float* sums, int rows, int width, bool with_barriers = true);

/// The same by dynamic shared memory, into which rows come by asynchronous copies; width a multiple of 4.
/// Without waiting it sums what has not come.
void copied_row_sums(const Cuda& cuda, const float* x, float* sums, int rows, int width, bool wait = true);

/// counts[x[i]] of n numbers.
void histogram(const Cuda& cuda, const int* x, int* counts, int n);

/// c [16,8] += a [16,16] b, of bfloat16 as bits. b is [16,8] and goes through a transposing load; with `b_transposed`
/// it is [8,16] and does not.
void tile_product(const Cuda& cuda, const std::uint16_t* a, const std::uint16_t* b, float* c, bool b_transposed);

/// What the lanes of a warp get of each other, 14 numbers a lane.
void warp_functions(const Cuda& cuda, int* results);

/// Kernels that break a rule.
enum class Fault {
  divergent_barrier,  // half of a block waits, the others end only after another barrier
  half_a_warp_at_a_barrier,
  divergent_shuffle,
  lane_outside_mask,
  read_outside_mask,
  beyond_static_shared,
  beyond_dynamic_shared,
  misaligned_vector,
  misaligned_copy,
  endless_recursion,
};
void break_a_rule(const Cuda& cuda, Fault fault, float* memory);

/// Threads that touch the same memory: those named after what orders them do no harm.
enum class Sharing {
  by_barrier,
  by_warp_barrier,
  by_shuffle,
  by_atomics,
  own_bytes,  // next to each other
  warps_without_barrier,
  lanes_without_barrier,
  blocks_of_a_launch,
  atomics_and_others,
  read_then_written,
};
/// Of two blocks of 64 threads; memory [256].
void share(const Cuda& cuda, Sharing sharing, int* memory);

/// y[i] = x[i + 1], also for the last, where x ends.
void shifted(const Cuda& cuda, const float* x, float* y, int n);

/// Only launched: a block of `threads`, `blocks` of them, with so many bytes of shared memory.
void launch_nothing(const Cuda& cuda, unsigned blocks, unsigned threads, std::size_t shared_bytes);

}  // namespace limbeck::emulation::samples
