// Stacks between which a thread of the machine jumps by itself (Boost.Context), each for a thread of a kernel that
// waits.
//
//     Fiber& fiber = fibers.take(main);
//     switch_to(fiber);                          // until something switches back
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <vector>

namespace limbeck::emulation {

struct Fiber {
  boost::context::detail::fcontext_t context = nullptr;  // where it goes on; that of the running fiber is stale
};

/// Goes on with `to`, which is not `from`, the fiber that runs; returns when something switches to `from`.
void switch_fiber(Fiber& from, Fiber& to);

/// The stacks of a thread of the machine. A stack's lower end is a page that nothing may touch.
class FiberPool {
 public:
  static constexpr std::size_t stack_bytes = std::size_t{128} << 10;

  explicit FiberPool(void (*main)());
  ~FiberPool();
  FiberPool(const FiberPool&) = delete;
  FiberPool& operator=(const FiberPool&) = delete;

  /// A fiber that runs `main` (which never returns), or goes on with it where it called give_back and switched.
  Fiber& take();
  void give_back(Fiber& fiber) { idle_.push_back(&fiber); }

  /// Whether the address lies on one of the stacks.
  bool holds(const void* address) const { return address >= stacks_ && address < stacks_ + max_fibers * stack_bytes; }

 private:
  static constexpr std::size_t max_fibers = 1025;  // a block's threads, and one beside them that is about to be idle
  void (*main_)();
  std::byte* stacks_;
  std::vector<Fiber> fibers_;
  std::vector<Fiber*> idle_;
};

}  // namespace limbeck::emulation
