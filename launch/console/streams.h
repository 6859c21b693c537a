// The three standard streams: there even where whoever started the process closed them, and results that cannot be
// written are an error.
//
//     open_standard_streams();                     // first of all
//     print_result("{} tokens\n", n);              // to standard output
//     flush_results();                             // before anything else is told, and at the end
//     print_note("\r\x1b[K");                      // to standard error
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace limbeck::launch {

/// Descriptors 0 to 2 that are closed are opened on /dev/null: else the first files that are opened get their numbers,
/// and what is printed is written into them.
void open_standard_streams();

/// Throws "standard output cannot be written: REASON". Where whoever read it has gone (`| head`), the process ends by
/// SIGPIPE, as others do.
void write_result(std::string_view text);
void flush_results();
template <class... Args>
void print_result(fmt::format_string<Args...> format, Args&&... args) {
  write_result(fmt::format(format, std::forward<Args>(args)...));
}

/// All of standard input, up to a gibibyte. Throws where it cannot be read.
std::string read_standard_input();

/// Words that nothing depends on, at once: where they cannot be written the work goes on without them.
void write_note(std::string_view text) noexcept;
template <class... Args>
void print_note(fmt::format_string<Args...> format, Args&&... args) {
  write_note(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace limbeck::launch
