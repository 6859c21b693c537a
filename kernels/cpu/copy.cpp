#include "kernels/copy.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstring>

namespace limbeck::kernels {

template <class D>
void copy_bytes(const D&, const void* from, void* to, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

template <class D>
void copy_rows(const D& cpu, const void* from, std::int64_t from_pitch, void* to, std::int64_t to_pitch,
               std::int64_t bytes, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r)
    copy_bytes(cpu, static_cast<const std::byte*>(from) + r * from_pitch, static_cast<std::byte*>(to) + r * to_pitch,
               bytes);
}

template <class D>
void clear_bytes(const D&, void* to, std::int64_t bytes) {
  if (bytes > 0) std::memset(to, 0, static_cast<std::size_t>(bytes));
}

template <class D>
void upload(const D& cpu, const void* host, void* to, std::int64_t bytes) {
  copy_bytes(cpu, host, to, bytes);
}

template <class D>
EventPtr download(const D& cpu, const void* from, void* host, std::int64_t bytes) {
  copy_bytes(cpu, from, host, bytes);
  return nullptr;
}

template <class D>
void* allocate_segment(const D&, std::int64_t bytes) {
  void* at =
      ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  ::madvise(at, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
  return at;
}

template <class D>
void free_segment(const D&, void* segment, std::int64_t bytes) {
  ::munmap(segment, static_cast<std::size_t>(bytes));
}

template <class D>
void* allocate_host_segment(const D& cpu, std::int64_t bytes) {
  return allocate_segment(cpu, bytes);
}

template <class D>
void free_host_segment(const D& cpu, void* segment, std::int64_t bytes) {
  free_segment(cpu, segment, bytes);
}

template void copy_bytes(const Cpu&, const void*, void*, std::int64_t);
template void copy_rows(const Cpu&, const void*, std::int64_t, void*, std::int64_t, std::int64_t, std::int64_t);
template void clear_bytes(const Cpu&, void*, std::int64_t);
template void upload(const Cpu&, const void*, void*, std::int64_t);
template EventPtr download(const Cpu&, const void*, void*, std::int64_t);
template void* allocate_segment(const Cpu&, std::int64_t);
template void free_segment(const Cpu&, void*, std::int64_t);
template void* allocate_host_segment(const Cpu&, std::int64_t);
template void free_host_segment(const Cpu&, void*, std::int64_t);

}  // namespace limbeck::kernels
