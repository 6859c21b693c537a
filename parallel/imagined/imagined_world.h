// One rank of a world whose other ranks are not there: it has their groups, and its exchanges move nothing. In an
// imagined memory (core/device/memory.h) it makes the steps of a run that is only planned.
//
//     on_imagined_rank(512, /*rank=*/0, [&](const auto& world) { Rank rank(world, "dp64tp8", ...); ... },
//                      [&](const auto& world) { Mesh(world, layout); });
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Runs `body` as one rank of so many. Who is in a group is known from what each rank says in WorldComm::split, so the
/// others, on threads of their own, run `groups`, which makes the same groups as `body` and does nothing else. What
/// `body` throws is thrown. `ranks_a_node` as ThreadWorld takes it.
void on_imagined_rank(int num_ranks, int rank, const std::function<void(const std::shared_ptr<WorldComm>&)>& body,
                      const std::function<void(const std::shared_ptr<WorldComm>&)>& groups, int ranks_a_node = 0);

}  // namespace limbeck::parallel
