// The one line that says why all ranks end: "limbeck: error: ...", with the rank in front where it is not the first.
//
//     prepare_error_line();                                    // first of all
//     if (claim_error_line()) write_error_line({what});        // also in a signal handler
#pragma once

#include <exception>
#include <initializer_list>
#include <string>
#include <string_view>

namespace limbeck::launch {

/// Looks up what the others need of the environment; before threads and handlers.
void prepare_error_line();

/// True for the first rank of this machine that asks. May be called from a signal handler.
bool claim_error_line();

/// What an error says; of one of the file system "PATH: reason".
std::string message_of(const std::exception& error);

/// The parts one behind the other and a line end, to standard error; control characters as \xNN, whatever a file's
/// names in it hold. May be called from a signal handler.
void write_error_line(std::initializer_list<std::string_view> parts);

}  // namespace limbeck::launch
