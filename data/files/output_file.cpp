#include "data/files/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"
#include "core/system_error.h"

namespace limbeck::data {

using core::check_system;

OutputFile::OutputFile(const std::filesystem::path& path, std::int64_t from) : path_(path.string()) {
  const int descriptor = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  check_system(descriptor >= 0, "{}: cannot be written", path_);
  file_.reset(::fdopen(descriptor, "wb"));
  if (file_ == nullptr) ::close(descriptor);
  check_system(file_ != nullptr, "{}: cannot be written", path_);
  check_system(::ftruncate(descriptor, from) == 0 && std::fseek(file_.get(), from, SEEK_SET) == 0,
               "{}: cannot be written from byte {}", path_, from);
}

void OutputFile::write(const void* data, std::size_t bytes) {
  check_system(bytes == 0 || std::fwrite(data, 1, bytes, file_.get()) == bytes, "{}: cannot be written", path_);
}

void OutputFile::flush() { check_system(std::fflush(file_.get()) == 0, "{}: cannot be written", path_); }

void OutputFile::sync() {
  flush();
  check_system(::fsync(::fileno(file_.get())) == 0, "{}: cannot be brought to the disk", path_);
}

void OutputFile::close() { check_system(std::fclose(file_.release()) == 0, "{}: cannot be written", path_); }

}  // namespace limbeck::data
