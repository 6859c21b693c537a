#include "launch/run/stop_flag.h"

#include <csignal>

namespace limbeck::launch {

namespace {
volatile std::sig_atomic_t stop = 0;
extern "C" void raise_stop(int) { stop = 1; }
}  // namespace

void catch_sigterm() { std::signal(SIGTERM, raise_stop); }
void restore_sigterm() { std::signal(SIGTERM, SIG_DFL); }
bool stop_requested() { return stop != 0; }

}  // namespace limbeck::launch
