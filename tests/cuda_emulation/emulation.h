// A GPU without a GPU. Kernels (.cu) and the code that launches them are compiled by the host's compiler against
// NVIDIA's own headers; what they call is here. It is for tests and never in the product.
//
//   fibers/   a block's threads take turns, and wait for each other at barriers, in warp functions, in products of the
//             tensor cores; asynchronous copies come as late as they may
//   device/   CUDA's names for that, which the compiler reads before a .cu file (builtins.h)
//   gpu/      gpu.h in place of kernels/cuda/gpu/gpu.h
//   runtime/  CUDA's runtime: eight GPUs a process, their memory, streams and events
//   blas/     cuBLASLt's products
//   nccl/     NCCL among ranks that are threads of the process
//   races/    accesses that nothing orders: within a launch, of kernels whose library ends in _races (CMakeLists.txt),
//   and
//             of streams, of these kernels and of all else
//   samples/  kernels for its own tests, right ones and such as break a rule
//
// What may come in any order is drawn by a seed: lanes, warps, blocks, streams, and how early queued work runs. What
// breaks CUDA's rules ends the program with one line, "cuda emulation: KERNEL, block [x,y,z], thread [x,y,z]: ...". The
// host cannot touch a GPU's memory; new memory is NaN; what is beyond an allocation or was freed cannot be touched by
// kernels either. A rank is a process, or a thread with a GPU of its own (cudaSetDevice). Events tell times of a clock
// on which streams go on side by side, in whichever order they are run here (runtime/machine.h).
//
// What it cannot see: whether accesses of a warp are coalesced, conflicts of banks, occupancy and registers, memory
// that is weakly ordered within a launch, instructions of the tensor cores other than mma.m16n8k16 and ldmatrix.x4, how
// exact fast arithmetic is (__expf and its like are the host's), blocks that wait for each other, static __shared__
// memory that is read before it is written (it keeps the last block's values), sub-warps that go different ways with
// masks of their own at once, reads of less than 256 bytes beyond an allocation, a host that touches a GPU's memory
// while that GPU works for another thread.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace limbeck::emulation {

/// What is drawn: of the environment's EMULATION_SEED at first, 1 without it. Seeds 2, 5, 8... run queued work as early
/// as can be, 3, 6, 9... as late, the others now and then.
std::uint64_t seed();
void set_seed(std::uint64_t seed);

/// How many GPUs the process sees, 0 to 8; of the environment's EMULATION_DEVICES at first, 8 without it.
int num_devices();
void set_num_devices(int count);

/// How long a call waits that nothing goes on for; of the environment's EMULATION_DEADLINE_S at first, 60 s without it.
std::chrono::duration<double> deadline();
void set_deadline(std::chrono::duration<double> seconds);

/// The calls of CUDA, cuBLASLt and NCCL so far, by all threads.
std::uint64_t num_calls();
/// The call that comes after so many others from now on fails; 0 is the next. failed_call() is its name then.
void fail_call_after(std::uint64_t others);
std::string failed_call();

/// Makes each of the calls of `run` fail in turn, and returns the names of those whose failure `run` did not throw for.
/// What gives back (cudaFree, ...Destroy) may fail unsaid. `run` must do the same each time and throw nothing
/// otherwise.
std::vector<std::string> unreported_failures(const std::function<void()>& run);

/// Of NCCL: while they are held or broken no operation comes to its end; of broken ones communicators report an error.
enum class Links : std::uint8_t { Good, Held, Broken };
void set_links(Links links);
/// Operations of NCCL that do not go together wait for ever, as NCCL's own do, instead of ending the program.
void set_mismatches_hang(bool hang);
/// What NCCL's operations of this name (of a function, "send and receive") give is a hundredth too large from now on,
/// where it is float32, or bytes, which are taken for float32. The name has to last; null: all are right.
void spoil_operations(const char* name);

/// Queues what never comes to an end.
void wait_for_ever(cudaStream_t stream);

}  // namespace limbeck::emulation
