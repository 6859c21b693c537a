// What the machine does to a run by a signal becomes an error like any other, in one line with exit code 1:
// a mapped file that was shortened (SIGBUS), memory that ends inside a library (SIGSEGV), a limit of a file's size
// (SIGXFSZ, then an error of the write), a reader that has gone (SIGPIPE, likewise).
//
//     report_fatal_signals();                      // before MPI starts: its own handlers print pages
#pragma once

#include <string>

namespace limbeck::launch {

void report_fatal_signals();

/// " (the address space is limited to N KiB: ulimit -v)", or nothing where it is not.
std::string memory_limit_text();

}  // namespace limbeck::launch
