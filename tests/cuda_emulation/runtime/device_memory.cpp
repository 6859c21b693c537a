#include "tests/cuda_emulation/runtime/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

namespace {

std::size_t rounded_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

std::byte* page_of(const std::byte* address, std::size_t page) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(address) / page * page);
}

constexpr std::size_t pattern_bytes = std::size_t{8} << 20;

// A file of 0xff, which memory shows until it is written: it costs nothing to have much of it.
int pattern_file() {
  static const int file = [] {
    const int made = ::memfd_create("emulated GPU memory", MFD_CLOEXEC);
    const std::vector<char> pattern(pattern_bytes, '\xff');
    if (made < 0 || ::write(made, pattern.data(), pattern_bytes) != static_cast<ssize_t>(pattern_bytes))
      fail("no file of {} bytes in memory", pattern_bytes);
    return made;
  }();
  return file;
}

void map_pattern(std::byte* pages, std::size_t bytes, int protection) {
  for (std::size_t i = 0; i < bytes; i += pattern_bytes)
    if (::mmap(pages + i, std::min(pattern_bytes, bytes - i), protection, MAP_PRIVATE | MAP_FIXED, pattern_file(), 0) ==
        MAP_FAILED)
      fail("no memory of {} bytes", bytes);
}

void unmap(std::byte* pages, std::size_t bytes) {
  ::mmap(pages, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

}  // namespace

DeviceMemory::DeviceMemory(int device) : device_(device), page_(static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) {
  void* region = ::mmap(nullptr, region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) fail("no {} bytes of addresses for GPU {}", region_bytes, device);
  begin_ = static_cast<std::byte*>(region);
  next_ = begin_ + page_;
}

void* DeviceMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::size_t aligned = rounded_up(bytes, 256);
  const std::size_t in_pages = rounded_up(aligned, page_);
  if (in_pages > free_bytes()) return nullptr;
  if (in_pages + page_ > static_cast<std::size_t>(begin_ + region_bytes - next_))
    fail("GPU {} has no addresses left, of {} bytes", device_, region_bytes);
  std::byte* pages = next_;
  next_ += in_pages + page_;
  used_bytes_ += in_pages;
  map_pattern(pages, in_pages, times_open_ == 0 ? PROT_NONE : PROT_READ | PROT_WRITE);
  std::byte* address = pages + in_pages - aligned;
  allocations_.emplace(address, Allocation{address + bytes, pages + in_pages});
  return address;
}

bool DeviceMemory::release(void* address) {
  const auto found = allocations_.find(static_cast<std::byte*>(address));
  if (found == allocations_.end() || found->second.freed) return false;
  std::byte* pages = page_of(found->first, page_);
  const auto bytes = static_cast<std::size_t>(found->second.page_end - pages);
  unmap(pages, bytes);
  found->second.freed = true;
  used_bytes_ -= bytes;
  return true;
}

void DeviceMemory::open() {
  if (times_open_++ > 0) return;
  for (const auto& [address, allocation] : allocations_)
    if (std::byte* pages = page_of(address, page_); !allocation.freed)
      ::mprotect(pages, static_cast<std::size_t>(allocation.page_end - pages), PROT_READ | PROT_WRITE);
}

void DeviceMemory::close() {
  if (--times_open_ > 0) return;
  for (const auto& [address, allocation] : allocations_)
    if (std::byte* pages = page_of(address, page_); !allocation.freed)
      ::mprotect(pages, static_cast<std::size_t>(allocation.page_end - pages), PROT_NONE);
}

std::string DeviceMemory::written_beyond_end() const {
  for (const auto& [address, allocation] : allocations_) {
    if (allocation.freed) continue;
    const std::byte* end = allocation.page_end;
    const std::byte* written = std::find_if(static_cast<const std::byte*>(allocation.end), end,
                                            [](std::byte b) { return b != std::byte{0xff}; });
    if (written != end) return describe(written);
  }
  return "";
}

std::pair<const std::byte*, const std::byte*> DeviceMemory::allocation_of(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  const auto after = allocations_.upper_bound(at);
  if (after == allocations_.begin()) return {};
  const auto& [begin, allocation] = *std::prev(after);
  if (allocation.freed || at >= allocation.end) return {};
  return {begin, allocation.end};
}

bool DeviceMemory::is_allocated(const void* address, std::size_t bytes) const {
  const std::byte* end = allocation_of(address).second;
  return bytes == 0 ||
         (end != nullptr && bytes <= static_cast<std::size_t>(end - static_cast<const std::byte*>(address)));
}

std::string DeviceMemory::describe(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  const auto after = allocations_.upper_bound(at);
  if (after == allocations_.begin()) return "before all allocations";
  const auto& [begin, allocation] = *std::prev(after);
  const char* freed = allocation.freed ? " that were freed" : "";
  if (at < allocation.end) return fmt::format("byte {} of {} bytes{}", at - begin, allocation.end - begin, freed);
  if (after != allocations_.end() && after->first - at < at - allocation.end)
    return fmt::format("{} bytes before {} bytes{}", after->first - at, after->second.end - after->first,
                       after->second.freed ? " that were freed" : "");
  return fmt::format("{} bytes beyond the end of {} bytes{}", at - allocation.end, allocation.end - begin, freed);
}

}  // namespace limbeck::emulation
