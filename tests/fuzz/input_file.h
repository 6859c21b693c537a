// The bytes of one fuzzing input as a file in memory, for readers that take a path.
//
//     InputFile file(data, size);
//     GgufFile gguf(file.path());
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace limbeck::testing {

class InputFile {
 public:
  InputFile(const std::uint8_t* data, std::size_t size) : handle_(::memfd_create("input", 0)) {
    while (size > 0) {
      const ::ssize_t written = ::write(handle_, data, size);
      if (written <= 0) std::abort();  // no memory left: not the reader's fault, and not to be taken for it
      data += written;
      size -= static_cast<std::size_t>(written);
    }
  }
  ~InputFile() { ::close(handle_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(handle_); }

 private:
  int handle_;
};

}  // namespace limbeck::testing
