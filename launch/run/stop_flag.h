// SIGTERM asks a run to save and end. The one piece of process-wide state, because a signal handler can reach no other.
//
//     catch_sigterm();
//     while (step < last && !stop_requested()) ...
#pragma once

namespace limbeck::launch {

/// From here on SIGTERM only raises the flag.
void catch_sigterm();
/// From here on SIGTERM ends the process again.
void restore_sigterm();
/// Of this rank; ranks agree on it by a reduction.
bool stop_requested();

}  // namespace limbeck::launch
