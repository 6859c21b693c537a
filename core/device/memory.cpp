#include "core/device/memory.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <variant>

#include "core/error.h"
#include "kernels/copy.h"

namespace limbeck::core {
namespace {

constexpr std::int64_t alignment = 64;
constexpr std::int64_t smallest_segment = std::int64_t{16} << 20;
constexpr std::int64_t huge_page = std::int64_t{2} << 20;
constexpr std::int64_t smallest_rest = 1024;  // a smaller remainder stays with its block

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

Memory::Memory(Device device, int threads)
    : device_(std::move(device)), threads_(threads), is_host_(std::holds_alternative<kernels::Cpu>(device_)) {}

std::shared_ptr<Memory> Memory::cpu(int threads) {
  return std::make_shared<Memory>(kernels::make_cpu(threads), threads);
}

std::shared_ptr<Memory> Memory::hidden_cpu(int threads) {
  auto memory = cpu(threads);
  memory->is_host_ = false;
  return memory;
}

Memory::~Memory() {
  for (const auto& [at, bytes] : segments_) free_segment(at, bytes);
}

std::shared_ptr<Memory> Memory::imagined(const ImaginedDevice& device) {
  auto memory = hidden_cpu(1);
  memory->imagined_ = device;
  return memory;
}

std::int64_t Memory::logits_bytes() const {
  if (imagined_) return imagined_->logits_bytes;
  return std::visit([](const auto& device) { return std::decay_t<decltype(device)>::logits_bytes; }, device_);
}

std::shared_ptr<Memory> Memory::host() {
  if (is_host_) return shared_from_this();
  const std::scoped_lock lock(mutex_);
  if (!host_) {
    host_ = cpu(threads_);
    host_->pinned_for_ = device_;
  }
  return host_;
}

void* Memory::allocate_segment(std::int64_t bytes) const {
  // Behind all that was given before: the first address is not null.
  if (imagined_) return reinterpret_cast<void*>(static_cast<std::uintptr_t>(huge_page + statistics_.system_bytes));
  if (pinned_for_)
    return std::visit([&](const auto& device) { return kernels::allocate_host_segment(device, bytes); }, *pinned_for_);
  return std::visit([&](const auto& device) { return kernels::allocate_segment(device, bytes); }, device_);
}

void Memory::free_segment(void* segment, std::int64_t bytes) const {
  if (imagined_) return;
  if (pinned_for_)
    std::visit([&](const auto& device) { kernels::free_host_segment(device, segment, bytes); }, *pinned_for_);
  else
    std::visit([&](const auto& device) { kernels::free_segment(device, segment, bytes); }, device_);
}

void* Memory::allocate(std::int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  const std::int64_t need = std::max(round_up(bytes, alignment), alignment);
  auto& free = free_of(part_);
  auto best = free.lower_bound({need, nullptr});
  if (best == free.end()) {
    // An eighth of what is held comes on top, so that shapes that vary with the data stop asking soon.
    const std::int64_t segment = round_up(std::max({need, smallest_segment, statistics_.system_bytes / 8}), huge_page);
    void* at = allocate_segment(segment);
    check(at != nullptr, "memory: the system refused {} MiB ({} MiB are held)", segment >> 20,
          statistics_.system_bytes >> 20);
    ++statistics_.system_allocations;
    statistics_.system_bytes += segment;
    segments_.emplace_back(static_cast<char*>(at), segment);
    blocks_[static_cast<char*>(at)] = {
        .bytes = segment, .segment = static_cast<std::int64_t>(segments_.size()), .part = part_};
    best = free.insert({segment, static_cast<char*>(at)}).first;
  }
  char* at = best->second;
  free.erase(best);
  Block& block = blocks_[at];
  if (block.bytes - need >= smallest_rest) {
    Block rest = block;
    rest.bytes -= need;
    block.bytes = need;
    insert_free(blocks_.insert_or_assign(at + need, rest).first);
  }
  block.used = true;
  statistics_.used_bytes += block.bytes;
  given_bytes_ += block.bytes;
  statistics_.peak_bytes = std::max(statistics_.peak_bytes, statistics_.used_bytes);
  return at;
}

void Memory::deallocate(void* pointer) noexcept {
  const std::scoped_lock lock(mutex_);
  const auto it = blocks_.find(static_cast<char*>(pointer));
  Block& block = it->second;
  if (std::exchange(block.is_noted, false)) keeps_what_is_used_ = false;
  block.used = false;
  statistics_.used_bytes -= block.bytes;
  free_and_merge(it);
}

/// With free neighbours of its segment and part; it is in no set of free ones yet.
void Memory::free_and_merge(Blocks::iterator it) {
  const auto mergeable = [](auto a, auto b) {
    return !a->second.used && !b->second.used && a->second.segment == b->second.segment &&
           a->second.part == b->second.part;
  };
  if (auto next = std::next(it); next != blocks_.end() && mergeable(it, next)) {
    erase_free(next);
    it->second.bytes += next->second.bytes;
    blocks_.erase(next);
  }
  if (it != blocks_.begin()) {
    if (auto previous = std::prev(it); mergeable(previous, it)) {
      erase_free(previous);
      previous->second.bytes += it->second.bytes;
      blocks_.erase(it);
      it = previous;
    }
  }
  insert_free(it);
}

void Memory::move_free(Part from, Part to) {
  for (const auto& [bytes, at] : std::exchange(free_of(from), {})) {
    const auto it = blocks_.find(at);
    it->second.part = to;
    free_and_merge(it);
  }
}

void Memory::begin_setting_apart() {
  const std::scoped_lock lock(mutex_);
  check(!is_set_apart_, "memory: some is set apart already");
  is_set_apart_ = true;
  keeps_what_is_used_ = true;
  move_free(Part::Common, Part::Apart);
  part_ = Part::Apart;
}

void Memory::end_setting_apart() {
  const std::scoped_lock lock(mutex_);
  part_ = Part::Common;
}

// What is in use of it yet becomes common when it is freed.
void Memory::give_back_apart() {
  const std::scoped_lock lock(mutex_);
  part_ = Part::Common;
  is_set_apart_ = false;
  move_free(Part::Apart, Part::Common);
  for (auto& [at, block] : blocks_) {
    block.part = Part::Common;
    block.is_noted = false;
  }
}

void Memory::note_use(const void* block) {
  const std::scoped_lock lock(mutex_);
  // Memory of another owner, and what is no block, is nobody's to free here.
  const auto at = blocks_.find(static_cast<char*>(const_cast<void*>(block)));
  if (at != blocks_.end() && at->second.part == Part::Common) at->second.is_noted = true;
}

bool Memory::keeps_what_is_used() const {
  const std::scoped_lock lock(mutex_);
  return keeps_what_is_used_;
}

MemoryStatistics Memory::statistics() const {
  const std::scoped_lock lock(mutex_);
  return statistics_;
}

std::int64_t Memory::given_bytes() const {
  const std::scoped_lock lock(mutex_);
  return given_bytes_;
}

void Memory::reset_peak() {
  const std::scoped_lock lock(mutex_);
  statistics_.peak_bytes = statistics_.used_bytes;
}

}  // namespace limbeck::core
