#include "launch/run/fatal_signals.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "data/files/mapped_file.h"
#include "launch/console/error_line.h"

namespace limbeck::launch {

namespace {

// As memory_limit_text() says it; read by a handler.
std::array<char, 128> limit_text{};

[[noreturn]] void end(std::initializer_list<std::string_view> parts) {
  if (claim_error_line()) write_error_line(parts);
  ::_exit(1);
}

extern "C" void on_bus_error(int, siginfo_t* info, void*) {
  const char* path = data::mapped_file_at(info->si_addr);
  if (path != nullptr) end({path, ": was shortened while it was read, or its disk has failed"});
  end({"memory that is mapped from a file cannot be had: the file was shortened, its disk has failed, ",
       "or /dev/shm, which the ranks share, is full"});
}

extern "C" void on_segmentation_fault(int, siginfo_t*, void*) {
  end({"a library failed, most likely for want of memory", limit_text.data()});
}

void handle(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

std::string memory_limit_text() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "";
  return fmt::format(" (the address space is limited to {} KiB: ulimit -v)", limit.rlim_cur / 1024);
}

void report_fatal_signals() {
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  handle(SIGBUS, on_bus_error);
  // oneDNN goes on without the memory that it asked for. Without a limit the kernel would rather end the process.
  const std::string text = memory_limit_text();
  if (text.empty() || text.size() >= limit_text.size()) return;
  text.copy(limit_text.data(), text.size());
  handle(SIGSEGV, on_segmentation_fault);
}

}  // namespace limbeck::launch
