// How long a thread that waits for others keeps its core: 10,000 rounds of the processor's pause, then it sleeps.
// libgomp's own threads spin for thirty times that, which costs a machine that has nothing else to do nothing; on one
// whose cores have other work too, a thread that spins takes the time of the one that it waits for, and a run falls to
// a twentieth of its speed.
//
//     [[gnu::section(".preinit_array"), gnu::used]] void (*const earliest)(int, char**, char**) = wait_briefly;
#pragma once

namespace limbeck::launch {

/// Starts this program again, as the same process, with GOMP_SPINCOUNT in its environment; goes on as it is where that
/// or OMP_WAIT_POLICY is set, and where it cannot be. libgomp reads the variable when it is loaded: what is set later
/// it never sees. To be called before libraries' constructors, whose signal handlers would not outlive the new start.
void wait_briefly(int num_arguments, char** arguments, char** environment);

}  // namespace limbeck::launch
