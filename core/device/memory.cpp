#include "core/device/memory.h"

#include <algorithm>
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
  if (pinned_for_)
    return std::visit([&](const auto& device) { return kernels::allocate_host_segment(device, bytes); }, *pinned_for_);
  return std::visit([&](const auto& device) { return kernels::allocate_segment(device, bytes); }, device_);
}

void Memory::free_segment(void* segment, std::int64_t bytes) const {
  if (pinned_for_)
    std::visit([&](const auto& device) { kernels::free_host_segment(device, segment, bytes); }, *pinned_for_);
  else
    std::visit([&](const auto& device) { kernels::free_segment(device, segment, bytes); }, device_);
}

void* Memory::allocate(std::int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  const std::int64_t need = std::max(round_up(bytes, alignment), alignment);
  auto best = free_.lower_bound({need, nullptr});
  if (best == free_.end()) {
    // An eighth of what is held comes on top, so that shapes that vary with the data stop asking soon.
    const std::int64_t segment = round_up(std::max({need, smallest_segment, statistics_.system_bytes / 8}), huge_page);
    void* at = allocate_segment(segment);
    check(at != nullptr, "memory: the system refused {} MiB ({} MiB are held)", segment >> 20,
          statistics_.system_bytes >> 20);
    ++statistics_.system_allocations;
    statistics_.system_bytes += segment;
    segments_.emplace_back(static_cast<char*>(at), segment);
    blocks_[static_cast<char*>(at)] = {segment, false, static_cast<std::int64_t>(segments_.size())};
    best = free_.insert({segment, static_cast<char*>(at)}).first;
  }
  char* at = best->second;
  free_.erase(best);
  Block& block = blocks_[at];
  if (block.bytes - need >= smallest_rest) {
    char* rest = at + need;
    blocks_[rest] = {block.bytes - need, false, block.segment};
    insert_free(rest, block.bytes - need);
    block.bytes = need;
  }
  block.used = true;
  statistics_.used_bytes += block.bytes;
  statistics_.peak_bytes = std::max(statistics_.peak_bytes, statistics_.used_bytes);
  return at;
}

void Memory::deallocate(void* pointer) noexcept {
  const std::scoped_lock lock(mutex_);
  auto it = blocks_.find(static_cast<char*>(pointer));
  it->second.used = false;
  statistics_.used_bytes -= it->second.bytes;
  const auto absorb = [&](auto into, auto gone) {
    into->second.bytes += gone->second.bytes;
    blocks_.erase(gone);
  };
  const auto mergeable = [](auto a, auto b) {
    return !a->second.used && !b->second.used && a->second.segment == b->second.segment;
  };
  if (auto next = std::next(it); next != blocks_.end() && mergeable(it, next)) {
    free_.erase({next->second.bytes, next->first});
    absorb(it, next);
  }
  if (it != blocks_.begin()) {
    if (auto previous = std::prev(it); mergeable(previous, it)) {
      free_.erase({previous->second.bytes, previous->first});
      absorb(previous, it);
      it = previous;
    }
  }
  insert_free(it->first, it->second.bytes);
}

MemoryStatistics Memory::statistics() const {
  const std::scoped_lock lock(mutex_);
  return statistics_;
}

void Memory::reset_peak() {
  const std::scoped_lock lock(mutex_);
  statistics_.peak_bytes = statistics_.used_bytes;
}

}  // namespace limbeck::core
