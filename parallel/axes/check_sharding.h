// Whether a mesh can be dealt over as parallel.shard_ranks says, before any groups are made.
#pragma once

#include "parallel/axes/gradient_groups.h"

namespace limbeck::parallel {

/// Throws a UsageError where neighbours (Sharding::ranks) would not be as many everywhere.
void check_sharding(const Mesh& mesh, const Sharding& sharding);

}  // namespace limbeck::parallel
