// Whether streams that touch the same memory were ordered, by an event or by a host that waited: what would go wrong in
// another order is found in each. Known are the accesses of copies, fills, cuBLASLt and NCCL, and of kernels that tell
// (shadow.h).
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace limbeck::emulation {

/// For each stream, by its number, how many of its operations are known to have ended.
using Clock = std::map<std::uint64_t, std::uint64_t>;
void merge(Clock& into, const Clock& from);
/// What both know.
void keep_common(Clock& clock, const Clock& other);

struct MemoryRange {
  const void* begin = nullptr;
  std::size_t bytes = 0;
};

/// What an operation touched, four bytes at a time.
class Footprint {
 public:
  static constexpr std::size_t words_of_page = 1024;
  struct Page {
    std::bitset<words_of_page> read, written;
  };

  void add(const std::vector<MemoryRange>& ranges, bool written);
  Page& page(std::uintptr_t number) { return pages_[number]; }
  std::size_t num_pages() const { return pages_.size(); }
  /// The first address that one writes and the other touches, or null.
  const void* conflict_with(const Footprint& other) const;

 private:
  std::map<std::uintptr_t, Page> pages_;
};

class StreamOrder {
 public:
  /// Notes an operation that has run as the clock[stream]-th of its stream, after all that the clock says. Returns what
  /// is wrong, or "".
  std::string note(std::uint64_t stream, const Clock& clock, Footprint footprint,
                   const std::function<std::string()>& what);
  /// All that runs from now on comes after what is known.
  void forget(const Clock& known);

 private:
  static constexpr std::size_t max_pages = 65536;  // the oldest operations go beyond it
  struct Past {
    std::uint64_t stream, number;
    Footprint footprint;
    std::function<std::string()> what;
  };
  std::deque<Past> past_;
  std::size_t num_pages_ = 0;
};

}  // namespace limbeck::emulation
