// Runs a test body as N ranks on N threads.
//
//     run_ranks(4, [](RankWorld& world) { world.comm->barrier(); });
#pragma once

#include <functional>
#include <memory>

#include "parallel/threads/run_ranks.h"

namespace limbeck::testing {

struct RankWorld {
  int rank;
  int size;
  std::shared_ptr<parallel::WorldComm> comm;
};

/// As parallel::run_ranks, with the deadline of a test.
inline void run_ranks(int num_ranks, const std::function<void(RankWorld&)>& body,
                      parallel::Deadline deadline = std::chrono::seconds(60), int ranks_a_node = 0) {
  parallel::run_ranks(
      num_ranks,
      [&](const std::shared_ptr<parallel::WorldComm>& comm) {
        RankWorld mine{comm->rank(), num_ranks, comm};
        body(mine);
      },
      deadline, ranks_a_node);
}

}  // namespace limbeck::testing
