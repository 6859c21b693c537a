#include "tests/cuda_emulation/races/shadow.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "tests/cuda_emulation/fibers/block.h"
#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/runtime/machine.h"

namespace limbeck::emulation {

namespace {

std::atomic<bool> noting{false};
std::atomic<std::uint64_t> noted{0};

struct ThreadState {
  Shadow shadow;
  bool busy = false;  // what noting itself does is not noted
  const std::byte* allocated_begin = nullptr;
  const std::byte* allocated_end = nullptr;
};

ThreadState& state_of_thread() {
  thread_local ThreadState state;
  return state;
}

bool writes(Touch touch) { return touch == Touch::write || touch == Touch::atomic_write; }
bool is_atomic(Touch touch) { return touch == Touch::atomic_read || touch == Touch::atomic_write; }

bool races(const Shadow::Access& a, const Shadow::Access& b) {
  if ((a.bytes & b.bytes) == 0 || (!writes(a.touch) && !writes(b.touch))) return false;
  if (is_atomic(a.touch) && is_atomic(b.touch)) return false;
  if (a.block != b.block) return true;
  if (a.thread == b.thread || a.barriers != b.barriers) return false;
  return a.thread / 32 != b.thread / 32 || a.collectives == b.collectives;
}

/// Whether what races with the old access races with the new one too.
bool makes_needless(const Shadow::Access& now, const Shadow::Access& old) {
  return now.block == old.block && now.thread == old.thread && (old.bytes & ~now.bytes) == 0 &&
         (writes(now.touch) || !writes(old.touch)) && (!is_atomic(now.touch) || is_atomic(old.touch));
}

std::string text_of(const Shadow::Access& access) {
  return fmt::format("{} by thread {} of block {} in {}",
                     access.touch == Touch::read    ? "read"
                     : access.touch == Touch::write ? "written"
                                                    : "changed atomically",
                     access.thread, access.block, code_place(static_cast<const char*>(access.code) - 1));
}

/// Whether it is memory of a GPU, and allocated: other memory is the emulation's own. The allocation that was found
/// last is mostly the next access's too.
bool is_of_gpu(ThreadState& state, const void* address, std::size_t bytes, const void* code) {
  const auto* begin = static_cast<const std::byte*>(address);
  if (begin >= state.allocated_begin && begin + bytes <= state.allocated_end) return true;
  const Lock lock(machine().mutex);
  const int device = machine().device_of(address);
  if (device < 0) return false;
  const auto [from, to] = machine().device(device).memory.allocation_of(address);
  if (begin + bytes > to)
    fail("an access of {} bytes to memory of GPU {}, {}, in {}", bytes, device,
         machine().device(device).memory.describe(begin + bytes - 1), code_place(static_cast<const char*>(code) - 1));
  state.allocated_begin = from;
  state.allocated_end = to;
  return true;
}

void note(ThreadState& state, Block& block, const void* address, std::size_t bytes, Touch touch, const void* code) {
  const bool shared = is_shared(address);
  if (!shared && !is_of_gpu(state, address, bytes, code)) return;
  Shadow::Access access;
  access.code = code;
  access.block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  access.barriers = block.num_barriers();
  access.collectives = block.current_warp().num_collectives;
  access.thread = static_cast<std::uint16_t>(block.current()->number);
  access.touch = touch;
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  const std::uintptr_t end = begin + bytes;
  for (std::uintptr_t word = begin / 4; word * 4 < end; ++word) {
    const std::uintptr_t first = std::max(begin, word * 4) - word * 4;
    const std::uintptr_t last = std::min(end, word * 4 + 4) - word * 4;
    access.bytes = static_cast<std::uint8_t>((1U << last) - (1U << first));
    if (const Shadow::Access* other = state.shadow.note(word, access, shared); other != nullptr)
      fail("a race for {} memory at {}: {}, and {}", shared ? "shared" : "global",
           reinterpret_cast<const void*>(word * 4), text_of(access), text_of(*other));
  }
}

}  // namespace

void start_noting() { noting = true; }

std::uint64_t num_noted() { return noted; }

void forget_accesses() {
  if (!noting) return;
  ThreadState& state = state_of_thread();
  state.shadow.clear();
  state.allocated_begin = state.allocated_end = nullptr;
}

Footprint take_noted() {
  if (!noting) return {};
  const Footprint footprint = state_of_thread().shadow.footprint();
  forget_accesses();
  return footprint;
}

void note_access(const void* address, std::size_t bytes, Touch touch, const void* code) {
  Block* block = Block::running();
  if (!noting || block == nullptr || block->current() == nullptr || block->fibers().holds(address)) return;
  ThreadState& state = state_of_thread();
  if (state.busy) return;
  state.busy = true;
  noted.fetch_add(1, std::memory_order_relaxed);
  note(state, *block, address, bytes, touch, code);
  state.busy = false;
}

void Shadow::clear() {
  ++launch_;
  if (pages_.size() < 256) return;  // each takes twenty times what it describes
  pages_.clear();
  last_number_ = ~std::uintptr_t{0};
}

Shadow::Page& Shadow::page_of(std::uintptr_t number) {
  if (number != last_number_) {
    auto& page = pages_[number];
    if (page == nullptr) page = std::make_unique<Page>();
    last_number_ = number;
    last_page_ = page.get();
  }
  if (last_page_->launch != launch_) {
    *last_page_ = Page{};
    last_page_->launch = launch_;
  }
  return *last_page_;
}

Footprint Shadow::footprint() const {
  Footprint all;
  for (const auto& [number, page] : pages_)
    if (page->launch == launch_ && (page->touched.read.any() || page->touched.written.any()))
      all.page(number) = page->touched;
  return all;
}

const Shadow::Access* Shadow::note(std::uintptr_t number, const Access& access, bool is_shared) {
  constexpr std::size_t words = Footprint::words_of_page;
  Page& page = page_of(number / words);
  if (!is_shared) (writes(access.touch) ? page.touched.written : page.touched.read).set(number % words);
  Word& word = page.words[number % words];
  Access* place = nullptr;
  for (Access& other : word.accesses) {
    if (other.bytes == 0 || (is_shared && other.block != access.block) || makes_needless(access, other)) {
      place = &other;
    } else if (races(access, other)) {
      return &other;
    }
  }
  if (place == nullptr) place = &word.accesses[word.next++ % word.accesses.size()];
  *place = access;
  return nullptr;
}

}  // namespace limbeck::emulation
