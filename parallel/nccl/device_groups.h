// Groups whose collectives over tensors of a GPU go by NCCL, and over those of the host as before.
//
//     auto groups = device_groups(world.comm(), rank_memory);     // and what is split from it
//     CommHandle h = groups->all_reduce_async(bucket, core::Reduce::Sum);
//     ...                                                          // kernels go on meanwhile
//     h.wait();                                                    // kernels that are queued from now on see the sum
//
// Each group has a stream of its own: an operation begins when the kernels queued before it have ended, and `wait`
// makes those behind it wait for it; the host waits for nothing. How long they did is counted with the group's axis.
#pragma once

#include <memory>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Why, where they are not and a rank's tensors lie on a GPU.
const char* why_by_way_of_the_host();

/// Collective. `world` itself where `memory` is not a GPU's, or where ranks share one, which NCCL refuses.
std::shared_ptr<WorldComm> device_groups(std::shared_ptr<WorldComm> world, const core::MemoryPtr& memory);

}  // namespace limbeck::parallel
