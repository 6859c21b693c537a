// N ranks as N threads of one process: the whole parallel path on a laptop, under sanitizers. Each rank has its own
// communication thread; data moves by copying between the ranks' own buffers; waiting ranks sleep.
//
//     ThreadWorld world(4);
//     std::vector<std::jthread> ranks;
//     for (int r = 0; r < 4; ++r) ranks.emplace_back([&, r] { train(world.comm(r)); });
#pragma once

#include <memory>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

class ThreadWorld {
 public:
  /// Throws a UsageError unless num_ranks >= 1. `ranks_a_node`: neighbours that are as if on one node, the last one may
  /// have fewer; 0: all are on one.
  explicit ThreadWorld(int num_ranks, Deadline deadline = default_deadline, int ranks_a_node = 0);
  ~ThreadWorld();
  ThreadWorld(const ThreadWorld&) = delete;
  ThreadWorld& operator=(const ThreadWorld&) = delete;

  int size() const;
  /// The group "world" as `rank` sees it; call it once a rank. It keeps the world alive.
  std::shared_ptr<WorldComm> comm(int rank);

 private:
  struct State;
  class Member;
  class Meeting;
  struct Group;
  std::shared_ptr<State> state_;
};

}  // namespace limbeck::parallel
