// A function run as N ranks on N threads.
//
//     run_ranks(2, [](const std::shared_ptr<WorldComm>& world) {
//       const Mesh mesh(world, parse_layout("ep2"));
//       ...
//     });
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Calls body(world) on each rank's own thread, and returns when all have. Where a rank throws, the others are stopped
/// at their next exchange with it, and its exception is thrown here. `ranks_a_node` as ThreadWorld takes it.
void run_ranks(int num_ranks, const std::function<void(const std::shared_ptr<WorldComm>&)>& body,
               Deadline deadline = default_deadline, int ranks_a_node = 0);

}  // namespace limbeck::parallel
