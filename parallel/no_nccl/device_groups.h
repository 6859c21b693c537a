// The groups of a build without NCCL: what lies in a GPU's memory goes by way of the host's (queued_comm.h).
#pragma once

#include <memory>
#include <utility>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Why, where a rank's tensors lie on a GPU.
inline const char* why_by_way_of_the_host() { return "this limbeck was built without NCCL"; }

inline std::shared_ptr<WorldComm> device_groups(std::shared_ptr<WorldComm> world, const core::MemoryPtr&) {
  return world;
}

}  // namespace limbeck::parallel
