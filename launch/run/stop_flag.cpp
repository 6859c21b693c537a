#include "launch/run/stop_flag.h"

#include <array>
#include <atomic>
#include <csignal>

namespace limbeck::launch {

namespace {

constexpr std::array stop_signals = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};
// Set by the thread of signal_thread.h.
std::atomic<bool> stop = false;
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void raise_stop(int signal) {
  stop = true;
  if (signal != SIGINT) return;
  if (interrupted.exchange(true)) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);  // comes when this handler has returned
  }
}

/// Those that are ignored when the process starts (nohup, a job in the background).
constinit std::array<bool, stop_signals.size()> ignored{};

void find_ignored() {
  for (std::size_t i = 0; i < ignored.size(); ++i) {
    struct sigaction now {};
    ignored[i] = ::sigaction(stop_signals[i], nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
  }
}

// Among what runs before the constructors of libraries: that of UCX, which comes with Open MPI 5, takes SIGHUP for
// itself. (Under a sanitizer, which is not ready so early, among our own constructors.)
[[gnu::section(LIMBECK_EARLIEST_SECTION), gnu::used]] void (*const earliest)() = find_ignored;

/// Gives the stop signals that are not ignored this handler.
void handle_by(void (*handler)(int)) {
  for (std::size_t i = 0; i < ignored.size(); ++i) std::signal(stop_signals[i], ignored[i] ? SIG_IGN : handler);
}

}  // namespace

void catch_stop_signals() { handle_by(raise_stop); }
void restore_stop_signals() { handle_by(SIG_DFL); }
bool stop_requested() { return stop; }
void request_stop() { stop = true; }

}  // namespace limbeck::launch
