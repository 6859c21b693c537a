// Accesses that the machine stops, as one line of the emulation: beyond an array's end, at a misaligned place, beyond
// shared memory or a stack, to memory that a GPU has and the host has not.
#pragma once

namespace limbeck::emulation {

/// From now on, on this thread of the machine; any number of times. What is not the emulation's goes to who handled it
/// before.
void report_signals();

}  // namespace limbeck::emulation
