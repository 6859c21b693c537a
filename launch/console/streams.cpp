#include "launch/console/streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>

#include "core/error.h"
#include "core/system_error.h"

namespace limbeck::launch {

namespace {

void check_result(bool is_written) {
  if (!is_written && errno == EPIPE) {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
  }
  core::check_system(is_written, "standard output cannot be written");
}

}  // namespace

void open_standard_streams() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor)
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) {
      [[maybe_unused]] const int opened = ::open("/dev/null", O_RDWR);  // the lowest number that is free: this one
    }
}

void write_result(std::string_view text) {
  check_result(std::fwrite(text.data(), 1, text.size(), stdout) == text.size());
}

void flush_results() { check_result(std::fflush(stdout) == 0); }

std::string read_standard_input() {
  constexpr std::size_t most = std::size_t{1} << 30U;
  std::string text;
  std::array<char, 1U << 16U> part{};
  while (const std::size_t got = std::fread(part.data(), 1, part.size(), stdin)) {
    text.append(part.data(), got);
    core::check(text.size() <= most, "standard input: holds more than {} bytes, the limit", most);
  }
  core::check_system(std::ferror(stdin) == 0, "standard input cannot be read");
  return text;
}

void write_note(std::string_view text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace limbeck::launch
