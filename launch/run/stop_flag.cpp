#include "launch/run/stop_flag.h"

#include <array>
#include <csignal>

namespace limbeck::launch {

namespace {

constexpr std::array stop_signals = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};
volatile std::sig_atomic_t stop = 0;
volatile std::sig_atomic_t interrupted = 0;

extern "C" void raise_stop(int signal) {
  stop = 1;
  if (signal != SIGINT) return;
  if (interrupted != 0) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);  // comes when this handler has returned
  }
  interrupted = 1;
}

/// Gives the stop signals that are not ignored this handler.
void handle_by(void (*handler)(int)) {
  for (const int signal : stop_signals)
    if (std::signal(signal, handler) == SIG_IGN) std::signal(signal, SIG_IGN);
}

}  // namespace

void catch_stop_signals() { handle_by(raise_stop); }
void restore_stop_signals() { handle_by(SIG_DFL); }
bool stop_requested() { return stop != 0; }

}  // namespace limbeck::launch
