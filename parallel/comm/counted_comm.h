// What a rank sends, by group and operation, of the groups that are made of one that is counted.
//
//     auto traffic = std::make_shared<TrafficLog>();
//     Rank rank(counted(world.comm(r), traffic), "dp2tp2", 1);
//     for (const ExchangeCount& t : traffic->entries()) ...           // {"tp", "all_reduce", {0, 1}, 12 calls, 98304
//     bytes}
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Of one operation in one group of several ranks.
struct ExchangeCount {
  std::string group;       // its name
  std::string operation;   // "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"
  std::vector<int> ranks;  // of the group, numbered as in the world
  std::int64_t calls = 0;
  /// That leave this rank (Call::bytes_for): of an all_reduce of B bytes among n ranks 2 B (n - 1) / n, to a number of
  /// uneven slices, of an all_gather or a reduce_scatter (n - 1) times a rank's part (Patarasuk & Yuan 2009, "Bandwidth
  /// optimal all-reduce": no fewer could), else those that go to other ranks.
  std::int64_t bytes = 0;
};

class TrafficLog {
 public:
  void add(const WorldComm& group, const char* operation, std::int64_t bytes);
  void forget() { entries_.clear(); }
  /// In the order of their first calls.
  const std::vector<ExchangeCount>& entries() const { return entries_; }

 private:
  std::vector<ExchangeCount> entries_;
};

/// The same group, whose exchanges, and those of all groups that it is cut into, are noted.
std::shared_ptr<WorldComm> counted(std::shared_ptr<WorldComm> group, std::shared_ptr<TrafficLog> log);

}  // namespace limbeck::parallel
