#include "tests/cuda_emulation/fibers/block.h"

#include <bit>
#include <map>
#include <string>
#include <string_view>

#include "tests/cuda_emulation/report.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace limbeck::emulation {

namespace {

thread_local Block* running_block = nullptr;

/// A bit of `bits`, which is not 0; any may be drawn.
unsigned draw_bit(std::uint32_t bits, std::uint64_t number) {
  const auto from = static_cast<int>(number % 32);
  return (static_cast<unsigned>(std::countr_zero(std::rotr(bits, from))) + static_cast<unsigned>(from)) % 32;
}

bool same_place(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}

}  // namespace

Block::Block(std::uint64_t seed) : random_(seed), fibers_(&Block::fiber_main) {}

Block* Block::running() { return running_block; }

void Block::prepare(const Launch& launch) {
  const dim3 size = launch.block;
  threads_.resize(size.x * size.y * size.z);
  for (unsigned i = 0; i < threads_.size(); ++i) {
    threads_[i].number = i;
    threads_[i].index = uint3{i % size.x, i / size.x % size.y, i / size.x / size.y};
  }
  launch_ = &launch;
}

void Block::run(uint3 index) {
  blockIdx = index;
  const auto num_threads = static_cast<unsigned>(threads_.size());
  warps_.assign((num_threads + 31) / 32, Warp{});
  for (unsigned w = 0; w < warps_.size(); ++w) {
    const unsigned lanes = std::min(32U, num_threads - w * 32);
    warps_[w].alive = warps_[w].ready = lanes == 32 ? ~0U : (1U << lanes) - 1;
  }
  ready_warps_ = warps_.size() == 32 ? ~0U : (1U << warps_.size()) - 1;
  num_alive_ = num_threads;
  num_at_barrier_ = 0;
  num_barriers_ = 0;
  running_block = this;
  current_fiber_ = &fibers_.take();
  Thread& first = *pick();
  first.fiber = current_fiber_;
  set_current(first);
  switch_fiber(host_, *current_fiber_);
  running_block = nullptr;
  current_ = nullptr;
}

// A fiber's life: threads one after another, until one that has waited has to go on.
void Block::fiber_main() {
  for (;;) {
    Block& block = *running_block;
    block.launch_->body();
    Fiber& mine = *block.current_fiber_;
    block.end_current();
    Thread* next = block.pick();
    if (next != nullptr && next->fiber == nullptr) {
      next->fiber = &mine;
      block.set_current(*next);
      continue;
    }
    if (next == nullptr && block.num_alive_ != 0) block.fail_stuck();
    block.fibers_.give_back(mine);
    if (next != nullptr) block.set_current(*next);
    block.current_fiber_ = next == nullptr ? &block.host_ : next->fiber;
    switch_fiber(mine, *block.current_fiber_);
  }
}

void Block::end_current() {
  Thread& thread = *current_;
  thread.fiber = nullptr;
  thread.copies.clear();
  const unsigned number = thread.number / 32;
  Warp& warp = warps_[number];
  warp.alive &= ~(1U << (thread.number % 32));
  --num_alive_;
  if (warp.arrived != 0 && warp.arrived == (warp.mask & warp.alive)) finish_collective(number);
  if (num_at_barrier_ != 0 && num_at_barrier_ == num_alive_) finish_barrier();
}

// Mostly a lane of the same warp: that is what finds warps far apart.
Thread* Block::pick() {
  if (ready_warps_ == 0) return nullptr;
  const std::uint64_t number = random_.next();
  if ((ready_warps_ >> warp_ & 1U) == 0 || (number >> 40) % 64 == 0) warp_ = draw_bit(ready_warps_, number >> 8);
  Warp& warp = warps_[warp_];
  const unsigned lane = draw_bit(warp.ready, number);
  warp.ready &= ~(1U << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1U << warp_);
  return &threads_[warp_ * 32 + lane];
}

void Block::set_current(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.index;
}

void Block::suspend(const char* what, const std::source_location& where) {
  current_->waits_in = what;
  current_->waits_at = where;
  Fiber& mine = *current_fiber_;
  Thread* next = pick();
  if (next == nullptr) fail_stuck();
  if (next->fiber == nullptr) next->fiber = &fibers_.take();
  set_current(*next);
  current_fiber_ = next->fiber;
  switch_fiber(mine, *next->fiber);
}

Block::Vote Block::barrier(const char* what, const std::source_location& where, bool vote) {
  if (num_at_barrier_ != 0 && !same_place(barrier_at_, where))
    fail("{} of {}, while other threads of the block are at the barrier of {}", what, text_of(where),
         text_of(barrier_at_));
  barrier_at_ = where;
  votes_.agreed += vote ? 1 : 0;
  ++votes_.all;
  if (++num_at_barrier_ == num_alive_) {
    finish_barrier();
  } else {
    current_warp().at_barrier |= 1U << current_lane();
    suspend(what, where);
  }
  return voted_;
}

void Block::finish_barrier() {
  for (unsigned w = 0; w < warps_.size(); ++w) {
    warps_[w].ready |= warps_[w].at_barrier;
    warps_[w].at_barrier = 0;
    if (warps_[w].ready != 0) ready_warps_ |= 1U << w;
  }
  num_at_barrier_ = 0;
  ++num_barriers_;
  voted_ = votes_;
  votes_ = {};
}

void Block::collective(const char* what, const std::source_location& where, std::uint32_t mask, void* mine,
                       Combine combine) {
  Warp& warp = current_warp();
  const std::uint32_t self = 1U << current_lane();
  if ((mask & self) == 0)
    fail("{} of {}: lane {} is not in its mask {:#010x}", what, text_of(where), current_lane(), mask);
  if (warp.arrived == 0) {
    warp.what = what;
    warp.where = where;
    warp.mask = mask;
    warp.combine = combine;
  } else if (warp.combine != combine || warp.mask != mask || !same_place(warp.where, where)) {
    fail("{} of {} with mask {:#010x}, while other lanes of the warp are in {} of {} with mask {:#010x}", what,
         text_of(where), mask, warp.what, text_of(warp.where), warp.mask);
  }
  warp.arrived |= self;
  warp.lanes[current_lane()] = mine;
  if (warp.arrived != (mask & warp.alive)) return suspend(what, where);
  finish_collective(current_->number / 32);
  warp.ready &= ~self;  // it goes on at once
  if (warp.ready == 0) ready_warps_ &= ~(1U << (current_->number / 32));
}

void Block::finish_collective(unsigned number) {
  Warp& warp = warps_[number];
  warp.combine(warp.lanes);
  warp.ready |= warp.arrived;
  ready_warps_ |= 1U << number;
  warp.arrived = 0;
  warp.lanes.fill(nullptr);
  ++warp.num_collectives;
}

void Block::fail_stuck() {
  current_ = nullptr;
  std::map<std::string, unsigned> places;
  for (const Thread& thread : threads_)
    if (thread.fiber != nullptr) ++places[fmt::format("{} of {}", thread.waits_in, text_of(thread.waits_at))];
  std::string text;
  for (const auto& [place, count] : places) text += fmt::format("{}{} in {}", text.empty() ? "" : ", ", count, place);
  fail("threads wait for ever for the others of their block or warp: {}; {} of {} have ended", text,
       threads_.size() - num_alive_, threads_.size());
}

}  // namespace limbeck::emulation
