// What core::Memory gives out and takes back on an emulated GPU. Its blocks lie in segments that stay allocated, so the
// emulation of cudaMalloc would see nobody use what has been freed. The linker puts these two in place of Memory's own
// (--wrap, CMakeLists.txt): when the stream has come to where a block was freed, its bytes are NaN again; where some of
// them are others by the time that they are given out again, somebody has written to what was freed, or beyond a
// block's end.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <variant>

#include "core/device/memory.h"
#include "kernels/cuda/cuda_state.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/runtime/calls.h"

void* real_allocate(limbeck::core::Memory*, std::int64_t) asm("__real__ZN7limbeck4core6Memory8allocateEl");
void real_deallocate(limbeck::core::Memory*, void*) noexcept asm("__real__ZN7limbeck4core6Memory10deallocateEPv");
void* allocate(limbeck::core::Memory*, std::int64_t) asm("__wrap__ZN7limbeck4core6Memory8allocateEl");
void deallocate(limbeck::core::Memory*, void*) noexcept asm("__wrap__ZN7limbeck4core6Memory10deallocateEPv");

namespace limbeck::emulation {

namespace {

constexpr int poison = 0xff;

// By their first bytes, with the machine's lock.
struct Blocks {
  std::map<std::byte*, std::int64_t> used;
  std::map<std::byte*, std::int64_t> poisoned;  // freed since, all of them or what is left
};

Blocks& blocks() {
  static auto* the_blocks = new Blocks;  // never destroyed: as the machine
  return *the_blocks;
}

/// Null for memory of the host.
std::shared_ptr<Stream> stream_of_blocks(const core::Memory& memory) {
  const auto* cuda = std::get_if<kernels::Cuda>(&memory.device());
  return cuda == nullptr ? nullptr : stream_of(cuda->state->stream);
}

void check_poison(const std::byte* begin, std::int64_t bytes) {
  const std::byte* end = begin + bytes;
  const std::byte* other = std::find_if(begin, end, [](std::byte b) { return b != std::byte{poison}; });
  if (other != end)
    fail("byte {} of {} bytes was written after they were freed, or from beyond them", other - begin, bytes);
}

/// What was freed of a block's place is looked at before the new owner's work.
void give_out(const std::shared_ptr<Stream>& stream, std::byte* block, std::int64_t bytes) {
  auto& poisoned = blocks().poisoned;
  auto at = poisoned.upper_bound(block);
  if (at != poisoned.begin()) --at;
  while (at != poisoned.end() && at->first < block + bytes) {
    const auto [begin, length] = *at;
    std::byte* first = std::max(begin, block);
    std::byte* last = std::min(begin + length, block + bytes);
    if (first >= last) {
      ++at;
      continue;
    }
    at = poisoned.erase(at);
    if (begin < first) poisoned.emplace(begin, first - begin);
    if (last < begin + length) at = poisoned.emplace(last, begin + length - last).first;
    if (stream->capture == nullptr)
      machine().enqueue(stream, {.what = [bytes] { return fmt::format("the beginning of a block of {} bytes", bytes); },
                                 .run = [first, last] { check_poison(first, last - first); },
                                 .reads = {{first, static_cast<std::size_t>(last - first)}}});
  }
  blocks().used[block] = bytes;
}

/// Of work that is recorded nothing is known: its kernels run when its blocks have long been freed.
void take_back(const std::shared_ptr<Stream>& stream, std::byte* block) {
  const auto given = blocks().used.extract(block);
  const std::int64_t bytes = given.empty() ? 0 : given.mapped();
  if (bytes == 0 || stream->capture != nullptr) return;
  const auto size = static_cast<std::size_t>(bytes);
  machine().enqueue(stream, {.what = [bytes] { return fmt::format("the end of a block of {} bytes", bytes); },
                             .run = [=] { std::memset(block, poison, size); },
                             .writes = {{block, size}}});
  blocks().poisoned[block] = bytes;
}

}  // namespace

}  // namespace limbeck::emulation

void* allocate(limbeck::core::Memory* memory, std::int64_t bytes) {
  using namespace limbeck::emulation;
  void* block = real_allocate(memory, bytes);
  const Lock lock(machine().mutex);
  if (const auto stream = stream_of_blocks(*memory)) give_out(stream, static_cast<std::byte*>(block), bytes);
  return block;
}

void deallocate(limbeck::core::Memory* memory, void* block) noexcept {
  using namespace limbeck::emulation;
  {
    const Lock lock(machine().mutex);
    if (const auto stream = stream_of_blocks(*memory)) take_back(stream, static_cast<std::byte*>(block));
  }
  real_deallocate(memory, block);
}
