// How the emulation ends a program that broke CUDA's rules: one line that names kernel, block and thread where one
// runs.
//
//     if (shared_bytes > limit) fail("shared memory of {} bytes, expected at most {}", shared_bytes, limit);
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <string>

namespace limbeck::emulation {

/// Prints "cuda emulation: KERNEL, block [x,y,z], thread [x,y,z]: WHAT" (the middle only while a kernel runs) and
/// aborts.
[[noreturn]] void fail_with(const std::string& what);

template <class... A>
[[noreturn]] void fail(fmt::format_string<A...> format, A&&... args) {
  fail_with(fmt::format(format, std::forward<A>(args)...));
}

/// "function (file.cu:12)" of code, as far as its program has symbols and debug lines; starts addr2line.
std::string code_place(const void* code);
/// The same, without the line.
std::string code_name(const void* code);
/// "file.cu:12".
std::string text_of(const std::source_location& where);

}  // namespace limbeck::emulation
