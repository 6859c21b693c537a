// Loaded before the C library (LD_PRELOAD), it makes a process slow or sleepy, as a bad disk or a machine in trouble
// does:
//
//     SLOW_FSYNC_MS=1200             each fsync takes so much longer
//     SLOW_PREAD_MS=2200 SLOW_PREAD_IF=OTHER   the next pread takes so much longer once OTHER is there, which goes
//     SLEEP_AT=FILE SLEEP_IF=OTHER   a thread that opens FILE sleeps for good once OTHER is there
#include <dlfcn.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// The C library's own.
template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

void maybe_sleep(const char* opened) {
  if (variable("SLEEP_AT") != opened) return;
  while (::access(variable("SLEEP_IF").data(), F_OK) == 0) ::sleep(1);
}

void maybe_wait_for_disk() {
  const int slow_ms = std::atoi(variable("SLOW_PREAD_MS").data());
  if (slow_ms > 0 && ::unlink(variable("SLOW_PREAD_IF").data()) == 0) ::usleep(static_cast<unsigned>(slow_ms) * 1000);
}

}  // namespace

extern "C" ssize_t pread(int file, void* to, std::size_t bytes, off_t at) {
  maybe_wait_for_disk();
  return next<ssize_t(int, void*, std::size_t, off_t)>("pread")(file, to, bytes, at);
}

extern "C" ssize_t pread64(int file, void* to, std::size_t bytes, off64_t at) {
  maybe_wait_for_disk();
  return next<ssize_t(int, void*, std::size_t, off64_t)>("pread64")(file, to, bytes, at);
}

extern "C" int fsync(int file) {
  const auto slow_ms = static_cast<unsigned>(std::atoi(variable("SLOW_FSYNC_MS").data()));
  ::usleep(slow_ms * 1000);
  return next<int(int)>("fsync")(file);
}

extern "C" FILE* fopen64(const char* path, const char* mode) {
  maybe_sleep(path);
  return next<FILE*(const char*, const char*)>("fopen64")(path, mode);
}

extern "C" FILE* fopen(const char* path, const char* mode) {
  maybe_sleep(path);
  return next<FILE*(const char*, const char*)>("fopen")(path, mode);
}
