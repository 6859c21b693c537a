#include "core/device/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "core/error.h"

namespace limbeck::core {
namespace {

TEST(Memory, BlocksAreAlignedApartAndKeepTheirContents) {
  const auto memory = Memory::cpu(1);
  std::mt19937 random(1);
  std::map<char*, std::pair<std::int64_t, int>> live;  // address -> bytes, pattern
  for (int i = 0; i < 4000; ++i) {
    if (live.empty() || random() % 2) {
      const std::int64_t bytes = random() % 8 ? random() % 5000 : random() % 3000000;
      auto* at = static_cast<char*>(memory->allocate(bytes));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % 64, 0U);
      const auto next = live.lower_bound(at);
      ASSERT_TRUE(next == live.end() || at + bytes <= next->first);
      ASSERT_TRUE(next == live.begin() || std::prev(next)->first + std::prev(next)->second.first <= at);
      std::memset(at, i & 0x7f, static_cast<std::size_t>(bytes));
      live[at] = {bytes, i & 0x7f};
    } else {
      const auto it = std::next(live.begin(), static_cast<std::ptrdiff_t>(random() % live.size()));
      const auto [bytes, pattern] = it->second;
      ASSERT_TRUE(std::all_of(it->first, it->first + bytes, [p = pattern](char c) { return c == p; }));
      memory->deallocate(it->first);
      live.erase(it);
    }
  }
  for (const auto& [at, block] : live) memory->deallocate(at);
  EXPECT_EQ(memory->statistics().used_bytes, 0);
}

TEST(Memory, FreedNeighboursMergeInAnyOrder) {
  const auto memory = Memory::cpu(1);
  for (const auto& order : {std::array{0, 1, 2}, std::array{2, 1, 0}, std::array{0, 2, 1}, std::array{1, 0, 2}}) {
    std::array<void*, 3> part{};
    for (void*& p : part) p = memory->allocate(5 << 20);
    for (const int i : order) memory->deallocate(part[static_cast<std::size_t>(i)]);
    void* whole = memory->allocate(16 << 20);  // the smallest segment
    EXPECT_EQ(memory->statistics().system_allocations, 1);
    memory->deallocate(whole);
  }
}

TEST(Memory, AsksTheSystemForNothingAfterWarmUp) {
  const auto memory = Memory::cpu(1);
  std::mt19937 random(2);
  const auto step = [&] {  // a step's tensors: all live at once, sizes that vary with the data
    std::vector<void*> live;
    for (int i = 0; i < 200; ++i) live.push_back(memory->allocate((std::int64_t{1} << 18) + random() % (1 << 16)));
    for (void* p : live) memory->deallocate(p);
  };
  for (int i = 0; i < 3; ++i) step();
  const auto warm = memory->statistics().system_allocations;
  for (int i = 0; i < 50; ++i) step();
  EXPECT_EQ(memory->statistics().system_allocations, warm);
}

TEST(Memory, Statistics) {
  const auto memory = Memory::cpu(1);
  void* a = memory->allocate(0);
  EXPECT_NE(a, nullptr);
  void* b = memory->allocate(1000);
  EXPECT_EQ(memory->statistics().used_bytes, 64 + 1024);
  memory->deallocate(b);
  EXPECT_EQ(memory->statistics().used_bytes, 64);
  EXPECT_EQ(memory->statistics().peak_bytes, 64 + 1024);
  memory->reset_peak();
  EXPECT_EQ(memory->statistics().peak_bytes, 64);
  memory->deallocate(a);
}

std::set<char*> taken_until_the_system_is_asked(Memory& memory, std::int64_t bytes) {
  std::set<char*> taken;
  const auto asked = memory.statistics().system_allocations;
  while (memory.statistics().system_allocations == asked) taken.insert(static_cast<char*>(memory.allocate(bytes)));
  return taken;
}

TEST(Memory, WhatIsSetApartIsNobodyElses) {
  constexpr std::int64_t bytes = 1 << 20;
  const auto memory = Memory::cpu(1);
  void* const before = memory->allocate(bytes);
  void* const gap = memory->allocate(bytes);
  void* const behind = memory->allocate(bytes);
  memory->deallocate(gap);

  memory->begin_setting_apart();
  void* const first = memory->allocate(bytes);  // of what was free
  EXPECT_EQ(first, gap);
  std::set<char*> apart = taken_until_the_system_is_asked(*memory, bytes);
  void* const kept = memory->allocate(bytes);
  for (char* at : apart) memory->deallocate(at);
  memory->note_use(first);
  memory->deallocate(first);
  memory->note_use(before);
  memory->end_setting_apart();
  EXPECT_TRUE(memory->keeps_what_is_used());
  EXPECT_THROW(memory->begin_setting_apart(), Error) << "one at a time";

  apart.insert(static_cast<char*>(first));
  const std::set<char*> common = taken_until_the_system_is_asked(*memory, bytes);
  for (char* at : common)
    for (char* mine : apart) EXPECT_TRUE(at + bytes <= mine || mine + bytes <= at);
  memory->deallocate(kept);  // stays apart
  memory->deallocate(behind);
  EXPECT_TRUE(memory->keeps_what_is_used());
  memory->deallocate(before);
  EXPECT_FALSE(memory->keeps_what_is_used());

  memory->give_back_apart();
  for (char* at : common) memory->deallocate(at);
  EXPECT_EQ(memory->statistics().used_bytes, 0);
  // All of it is whole segments again.
  const auto asked = memory->statistics().system_allocations;
  std::vector<void*> whole;
  for (std::int64_t i = 0; i < asked; ++i) whole.push_back(memory->allocate(16 << 20));
  EXPECT_EQ(memory->statistics().system_allocations, asked);
  for (void* at : whole) memory->deallocate(at);
}

TEST(Memory, WhatWasApartAndIsInUseBecomesCommonWhenItIsFreed) {
  const auto memory = Memory::cpu(1);
  memory->begin_setting_apart();
  void* const kept = memory->allocate(12 << 20);
  memory->end_setting_apart();
  memory->give_back_apart();
  memory->deallocate(kept);
  EXPECT_EQ(memory->allocate(16 << 20), kept);
  EXPECT_EQ(memory->statistics().system_allocations, 1);
}

}  // namespace
}  // namespace limbeck::core
