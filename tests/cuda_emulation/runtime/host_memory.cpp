#include "tests/cuda_emulation/runtime/host_memory.h"

#include <map>

namespace limbeck::emulation {

namespace {

std::map<const std::byte*, std::size_t>& pinned() {
  static auto* ranges = new std::map<const std::byte*, std::size_t>;
  return *ranges;
}

}  // namespace

void pin(void* address, std::size_t bytes) { pinned()[static_cast<std::byte*>(address)] = bytes; }

bool unpin(void* address) { return pinned().erase(static_cast<std::byte*>(address)) == 1; }

bool is_pinned(const void* address, std::size_t bytes) {
  const auto* from = static_cast<const std::byte*>(address);
  auto after = pinned().upper_bound(from);
  if (after == pinned().begin()) return false;
  --after;
  return from + bytes <= after->first + after->second;
}

}  // namespace limbeck::emulation
