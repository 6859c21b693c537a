// A block of a kernel: its threads take turns on one thread of the machine. A thread runs until it has to wait for
// others, at a barrier or in a collective of its warp; only then does it need a stack of its own. Which thread goes on
// is drawn: any order that CUDA allows may come.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <functional>
#include <source_location>
#include <vector>

#include "tests/cuda_emulation/device/indices.h"
#include "tests/cuda_emulation/fibers/async_copies.h"
#include "tests/cuda_emulation/fibers/fiber.h"
#include "tests/cuda_emulation/random.h"

namespace limbeck::emulation {

/// A kernel with its arguments, as it was launched.
struct Launch {
  const void* kernel = nullptr;  // for its name
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  std::function<void()> body;  // what each thread runs
};

/// What a warp does together: reads and writes what its lanes brought (null for those that take no part).
using Combine = void (*)(const std::array<void*, 32>& lanes);

struct Thread {
  uint3 index{};
  unsigned number = 0;     // in its block, x fastest
  Fiber* fiber = nullptr;  // from its start to its end
  const char* waits_in = nullptr;
  std::source_location waits_at;
  AsyncCopies copies;
};

struct Warp {
  std::uint32_t alive = 0;       // lanes that have not ended
  std::uint32_t ready = 0;       // lanes that can go on
  std::uint32_t at_barrier = 0;  // lanes that wait for the block
  std::uint32_t arrived = 0;     // lanes in the collective that is under way, `what` at `where`
  std::uint32_t mask = 0;
  const char* what = nullptr;
  std::source_location where;
  Combine combine = nullptr;
  std::array<void*, 32> lanes{};
  std::uint32_t num_collectives = 0;  // that this block's warp has been through
};

class Block {
 public:
  explicit Block(std::uint64_t seed);

  /// The block that this thread of the machine runs, or null.
  static Block* running();

  /// For the blocks of a launch, which must stay until they have run.
  void prepare(const Launch& launch);
  /// Runs one of them.
  void run(uint3 index);

  /// Called by the kernel's threads. A vote of barrier() is the number of threads that came with true.
  struct Vote {
    unsigned agreed = 0, all = 0;
  };
  Vote barrier(const char* what, const std::source_location& where, bool vote);
  void collective(const char* what, const std::source_location& where, std::uint32_t mask, void* mine, Combine combine);

  Thread* current() const { return current_; }
  Warp& current_warp() { return warps_[current_->number / 32]; }
  unsigned current_lane() const { return current_->number % 32; }
  const void* kernel() const { return launch_->kernel; }
  std::uint32_t num_barriers() const { return num_barriers_; }
  const FiberPool& fibers() const { return fibers_; }
  Random& random() { return random_; }

 private:
  static void fiber_main();
  void end_current();
  Thread* pick();
  void set_current(Thread& thread);
  void suspend(const char* what, const std::source_location& where);
  void finish_barrier();
  void finish_collective(unsigned number);
  [[noreturn]] void fail_stuck();

  Random random_;
  FiberPool fibers_;
  Fiber host_;
  const Launch* launch_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  unsigned num_alive_ = 0;
  unsigned warp_ = 0;              // whose lanes go on first
  std::uint32_t ready_warps_ = 0;  // those with a lane that can go on
  Thread* current_ = nullptr;
  Fiber* current_fiber_ = nullptr;

  unsigned num_at_barrier_ = 0;
  std::source_location barrier_at_;
  Vote votes_, voted_;  // of the barrier under way, of the last
  std::uint32_t num_barriers_ = 0;
};

}  // namespace limbeck::emulation
