#include "data/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

#include "core/error.h"
#include "core/system_error.h"

namespace limbeck::data {

using core::check;
using core::check_system;

namespace {

/// What a signal handler needs of a mapping. Entries are taken and given back but never freed, so that a handler may
/// walk over them at any instant.
struct Mapping {
  std::atomic<bool> is_taken = false;
  std::atomic<const std::byte*> begin = nullptr;
  std::atomic<std::size_t> size = 0;
  std::array<char, 512> path{};
  Mapping* next = nullptr;
};
std::atomic<Mapping*> mappings = nullptr;

Mapping& take_mapping() {
  for (Mapping* at = mappings; at != nullptr; at = at->next)
    if (!at->is_taken.exchange(true)) return *at;
  auto* made = new Mapping;
  made->is_taken = true;
  made->next = mappings;
  while (!mappings.compare_exchange_weak(made->next, made)) {
  }
  return *made;
}

void note_mapping(const std::string& path, const std::byte* data, std::size_t size) {
  Mapping& mapping = take_mapping();
  mapping.path.fill('\0');
  path.copy(mapping.path.data(), mapping.path.size() - 1);
  mapping.size = size;
  mapping.begin = data;
}

void forget_mapping(const std::byte* data) {
  for (Mapping* at = mappings; at != nullptr; at = at->next) {
    if (at->begin != data) continue;
    at->begin = nullptr;
    at->is_taken = false;
    return;
  }
}

const Mapping* mapping_at(const void* address) {
  for (const Mapping* at = mappings; at != nullptr; at = at->next) {
    const std::byte* begin = at->begin;
    if (begin != nullptr && address >= begin && address < begin + at->size) return at;
  }
  return nullptr;
}

}  // namespace

const char* mapped_file_at(const void* address) {
  const Mapping* mapping = mapping_at(address);
  return mapping == nullptr ? nullptr : mapping->path.data();
}

void release_mapped(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const Mapping* mapping = mapping_at(bytes.data());
  if (mapping == nullptr) return;
  // With a page that is read the system maps others beside it, as many as it keeps together.
  constexpr std::ptrdiff_t together = std::ptrdiff_t{1} << 21U;
  const std::byte* begin = mapping->begin;
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(mapping->size), at = bytes.data() - begin;
  const std::ptrdiff_t first = std::max<std::ptrdiff_t>(at - together, 0) / together * together;
  const std::ptrdiff_t end = std::min(at + std::ssize(bytes) + together, size);
  ::madvise(const_cast<std::byte*>(begin + first), static_cast<std::size_t>(end - first), MADV_DONTNEED);
}

void fetch_mapped(std::span<const std::byte> bytes) {
  const Mapping* mapping = bytes.empty() ? nullptr : mapping_at(bytes.data());
  if (mapping == nullptr) return;
  const std::ptrdiff_t page = ::sysconf(_SC_PAGESIZE), at = bytes.data() - mapping->begin, first = at / page * page;
  ::madvise(const_cast<std::byte*>(mapping->begin + first), static_cast<std::size_t>(at - first) + bytes.size(),
            MADV_WILLNEED);
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait for its writer
  check_system(descriptor >= 0, "{}: cannot be opened", path);
  struct stat status {};
  const bool is_file = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  void* data = nullptr;
  int error = 0;
  if (is_file && status.st_size > 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) error = errno;
  }
  ::close(descriptor);
  check(is_file, "{}: is not a regular file", path);
  errno = error;
  check_system(error == 0, "{}: cannot be mapped", path);
  data_ = static_cast<const std::byte*>(data);
  if (data_ != nullptr) note_mapping(path_, data_, size_);
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  forget_mapping(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace limbeck::data
