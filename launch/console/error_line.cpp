#include "launch/console/error_line.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "launch/console/log.h"

namespace limbeck::launch {

namespace {

// Of fixed size and without a destructor: a handler may come at any time.
std::array<char, 4096> claim_path{};  // OpenMPI's folder of the job, which goes with the job; empty without a launcher
std::array<char, 64> opening{};

template <std::size_t N>
void keep(std::array<char, N>& place, const std::string& text) {
  place.fill('\0');
  if (text.size() < N) text.copy(place.data(), text.size());
}

/// Bytes on their way to standard error.
class Line {
 public:
  void add(std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte != 0x7f) {
        put(c);
        continue;
      }
      put('\\');
      put('x');
      put(digits[byte >> 4U]);
      put(digits[byte & 15U]);
    }
  }
  void end() {
    put('\n');
    send();
  }

 private:
  void put(char c) {
    if (size_ == bytes_.size()) send();
    bytes_[size_++] = c;
  }
  void send() {
    for (std::size_t sent = 0; sent < size_;) {
      const ssize_t n = ::write(STDERR_FILENO, bytes_.data() + sent, size_ - sent);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      sent += static_cast<std::size_t>(n);
    }
    size_ = 0;
  }

  std::array<char, 4096> bytes_{};
  std::size_t size_ = 0;
};

}  // namespace

void prepare_error_line() {
  const char* folder = std::getenv("PMIX_SERVER_TMPDIR");
  if (folder != nullptr) keep(claim_path, std::string(folder) + "/limbeck_error");
  const int rank = launcher_rank().rank;
  keep(opening, rank == 0 ? "limbeck: error: " : fmt::format("limbeck: error: rank {}: ", rank));
}

bool claim_error_line() {
  if (claim_path[0] == '\0') return true;
  const int file = ::open(claim_path.data(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (file < 0) return errno != EEXIST;
  ::close(file);
  return true;
}

std::string message_of(const std::exception& error) {
  const auto* const of_files = dynamic_cast<const std::filesystem::filesystem_error*>(&error);
  if (of_files == nullptr || of_files->path1().empty()) return error.what();
  return of_files->path1().string() + ": " + of_files->code().message();
}

void write_error_line(std::initializer_list<std::string_view> parts) {
  Line line;
  line.add(opening.data());
  for (const std::string_view part : parts) line.add(part);
  line.end();
}

}  // namespace limbeck::launch
