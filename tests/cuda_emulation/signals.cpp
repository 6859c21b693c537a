#include "tests/cuda_emulation/signals.h"

#include <ucontext.h>

#include <array>
#include <csignal>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "tests/cuda_emulation/fibers/block.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/runtime/machine.h"

namespace limbeck::emulation {

namespace {

struct sigaction previous_segmentation_fault {};
struct sigaction previous_illegal_instruction {};

const void* code_of(const void* context) {
  return reinterpret_cast<const void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
}

void hand_on(const struct sigaction& previous, int signal) {
  ::sigaction(signal, &previous, nullptr);
  ::raise(signal);
}

// Where the lock cannot be had, for this thread may hold it, memory that changes meanwhile may be told wrongly.
std::string describe(int device, const void* address) {
  const Lock lock(machine().mutex, std::try_to_lock);
  return fmt::format("memory of GPU {}, {}", device, machine().device(device).memory.describe(address));
}

void on_segmentation_fault(int signal, siginfo_t* info, void* context) {
  const Block* block = Block::running();
  if (const int device = machine().device_of(info->si_addr); device >= 0) {
    const std::string memory = describe(device, info->si_addr);
    if (block == nullptr && running_operation().empty())
      fail("host access to {}, in {}", memory, code_place(code_of(context)));
    fail("an access to {}, in {}", memory, code_place(code_of(context)));
  }
  if (block == nullptr) return hand_on(previous_segmentation_fault, signal);
  if (block->fibers().holds(info->si_addr)) fail("its stack of {} bytes has ended", FiberPool::stack_bytes);
  if (info->si_addr == nullptr) fail("an access to no memory, or misaligned, in {}", code_place(code_of(context)));
  fail("an access to {}, which is no memory, in {}", info->si_addr, code_place(code_of(context)));
}

// What -fsanitize=alignment,bounds ends by.
void on_illegal_instruction(int signal, siginfo_t*, void* context) {
  if (Block::running() == nullptr) return hand_on(previous_illegal_instruction, signal);
  fail("an index beyond its array or a misaligned access in {}", code_place(code_of(context)));
}

void handle(int signal, void (*handler)(int, siginfo_t*, void*), struct sigaction& previous) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  ::sigaction(signal, &action, &previous);
}

// A handler needs a stack where a kernel's has ended.
struct HandlerStack {
  static constexpr std::size_t bytes = std::size_t{256} << 10;
  std::unique_ptr<std::byte[]> memory = std::make_unique<std::byte[]>(bytes);
  HandlerStack() {
    stack_t stack{};
    stack.ss_sp = memory.get();
    stack.ss_size = bytes;
    ::sigaltstack(&stack, nullptr);
  }
  ~HandlerStack() {
    stack_t stack{};
    stack.ss_flags = SS_DISABLE;
    ::sigaltstack(&stack, nullptr);
  }
  HandlerStack(const HandlerStack&) = delete;
  HandlerStack& operator=(const HandlerStack&) = delete;
};

}  // namespace

void report_signals() {
  thread_local const HandlerStack stack;
  static std::once_flag once;
  std::call_once(once, [] {
    handle(SIGSEGV, on_segmentation_fault, previous_segmentation_fault);
    handle(SIGILL, on_illegal_instruction, previous_illegal_instruction);
  });
}

}  // namespace limbeck::emulation
