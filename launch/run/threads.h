// How many threads a rank computes with.
//
//     Rank rank(world, layout, threads_of_rank(config.train.threads));
#pragma once

#include <cstdint>

namespace limbeck::launch {

/// Threads for this rank: `wanted`, or if that is 0, the cores mpirun bound it to, or else an equal share of the cores
/// that the ranks on this machine may use. At least 1.
int threads_of_rank(std::int64_t wanted);

}  // namespace limbeck::launch
