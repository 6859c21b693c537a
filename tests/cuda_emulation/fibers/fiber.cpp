#include "tests/cuda_emulation/fibers/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

namespace {

namespace context = boost::context::detail;

thread_local void (*fiber_main)() = nullptr;

void arrive(context::transfer_t from) { static_cast<Fiber*>(from.data)->context = from.fctx; }

void enter(context::transfer_t from) {
  arrive(from);
  fiber_main();
}

}  // namespace

void switch_fiber(Fiber& from, Fiber& to) { arrive(context::jump_fcontext(to.context, &from)); }

FiberPool::FiberPool(void (*main)()) : main_(main) {
  void* memory =
      ::mmap(nullptr, max_fibers * stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("no memory for {} stacks of {} bytes", max_fibers, stack_bytes);
  stacks_ = static_cast<std::byte*>(memory);
  fibers_.reserve(max_fibers);
}

FiberPool::~FiberPool() { ::munmap(stacks_, max_fibers * stack_bytes); }

Fiber& FiberPool::take() {
  if (!idle_.empty()) {
    Fiber& fiber = *idle_.back();
    idle_.pop_back();
    return fiber;
  }
  const std::size_t number = fibers_.size();
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::byte* stack = stacks_ + number * stack_bytes;
  ::mprotect(stack + page, stack_bytes - page, PROT_READ | PROT_WRITE);
  // Tops at various places of a page: stacks that all begin alike would share the same few lines of the caches.
  const std::size_t top = stack_bytes - (number % 30) * 128;
  fiber_main = main_;
  return fibers_.emplace_back(context::make_fcontext(stack + top, top - page, enter));
}

}  // namespace limbeck::emulation
