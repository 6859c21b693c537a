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

/// Gives the stop signals that are not ignored this handler.
void handle_by(void (*handler)(int)) {
  for (const int signal : stop_signals)
    if (std::signal(signal, handler) == SIG_IGN) std::signal(signal, SIG_IGN);
}

}  // namespace

void catch_stop_signals() { handle_by(raise_stop); }
void restore_stop_signals() { handle_by(SIG_DFL); }
bool stop_requested() { return stop; }

}  // namespace limbeck::launch
