// Signals that ask a run to save and end: SIGTERM, SIGINT (Ctrl-C), SIGHUP (the terminal has gone), SIGUSR1 and SIGUSR2
// (which mpirun passes on at once), SIGXCPU (the soft limit of processor time is reached). Process-wide state, because
// a signal handler can reach no other.
//
//     catch_stop_signals();
//     while (step < last && !stop_requested()) ...
#pragma once

#include <stdexcept>

namespace limbeck::launch {

/// Leaves what can be taken up again, before there is anything trained: the command ends with 3, and the same one goes
/// on.
class Stopped : public std::runtime_error {
 public:
  Stopped() : std::runtime_error("stopped by a signal") {}
};

/// From here on these signals only raise the flag, but for a second SIGINT: that ends the process. One that was
/// ignored (nohup, a job in the background) stays so.
void catch_stop_signals();
/// From here on they end the process again.
void restore_stop_signals();
/// Of this rank; ranks agree on it by a reduction (stop_is_agreed of rank.h).
bool stop_requested();
/// As such a signal does: another rank got one.
void request_stop();

}  // namespace limbeck::launch
