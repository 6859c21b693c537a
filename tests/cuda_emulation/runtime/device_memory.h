// The memory of an emulated GPU: addresses that the host may not touch and the GPU may while it works. New memory holds
// 0xff (NaN); each allocation ends before a page that nothing may touch; an address is never given twice, so that what
// was freed stays closed.
//
//     DeviceMemory memory(/*device=*/0);
//     void* x = memory.allocate(400);
//     memory.open();                                       // the GPU works
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>

namespace limbeck::emulation {

class DeviceMemory {
 public:
  static constexpr std::size_t total_bytes = std::size_t{4} << 30;  // that can be had at once

  explicit DeviceMemory(int device);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// A multiple of 256, or null where the memory is full. 0 bytes are null.
  void* allocate(std::size_t bytes);
  /// Whether it was allocated and not freed.
  bool release(void* address);

  /// As often closed as opened.
  void open();
  void close();
  /// What was written between an allocation's end and the next multiple of 256, as describe(), or nothing. It is open.
  std::string written_beyond_end() const;

  bool holds(const void* address) const { return address >= begin_ && address < begin_ + region_bytes; }
  /// Whether all of it lies in one allocation that was not freed.
  bool is_allocated(const void* address, std::size_t bytes) const;
  /// Where the allocation that holds the address begins and ends; both null where none does.
  std::pair<const std::byte*, const std::byte*> allocation_of(const void* address) const;
  /// Such as "byte 12 of 400 bytes that were freed", or "12 bytes beyond 400 bytes".
  std::string describe(const void* address) const;
  std::size_t free_bytes() const { return total_bytes - used_bytes_; }

 private:
  static constexpr std::size_t region_bytes = std::size_t{64} << 30;  // of addresses

  struct Allocation {
    std::byte* end;  // of what was asked for
    std::byte* page_end;
    bool freed = false;
  };

  int device_;
  std::size_t page_;
  std::byte* begin_;
  std::byte* next_;  // the first address that was never given
  std::map<const std::byte*, Allocation> allocations_;
  std::size_t used_bytes_ = 0;
  int times_open_ = 0;
};

}  // namespace limbeck::emulation
