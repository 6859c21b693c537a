// Signals come to a thread that does nothing else. One that arrives on a thread that computes pushes its frame below
// that thread's stack pointer, and there oneDNN's generated matrix products (AVX-512, seen in 2.6) keep memory of the
// heap's: they use the stack pointer as a register. What lies before that memory is overwritten, and the process ends
// some time later.
//
//     int main() {
//       keep_signals_from_computing();            // before there are other threads
#pragma once

namespace limbeck::launch {

/// Blocks every signal but those that come of what a thread itself does, in this thread and in all that it starts;
/// handlers and default actions run on a thread of their own from here on. Processes that are forked have the signals
/// as they were (glibc's posix_spawn gives them ours). Where no thread can be started, everything stays as it was.
void keep_signals_from_computing();

}  // namespace limbeck::launch
