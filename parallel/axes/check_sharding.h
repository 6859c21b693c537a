// Whether a world can be dealt over as parallel.shard_ranks says, before any groups are made.
#pragma once

#include <string>

#include "parallel/axes/gradient_groups.h"

namespace limbeck::parallel {

/// Why so many neighbours (Sharding::ranks; 0: all) would not be as many everywhere in a world of `num_ranks` that has
/// this layout, empty where they are.
std::string sharding_fault(const Layout& layout, int num_ranks, int neighbours);
/// Throws that as a UsageError.
void check_sharding(const Mesh& mesh, const Sharding& sharding);

}  // namespace limbeck::parallel
