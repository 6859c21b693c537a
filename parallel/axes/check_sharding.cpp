#include "parallel/axes/check_sharding.h"

namespace limbeck::parallel {

void check_sharding(const Mesh& mesh, const Sharding& sharding) {
  if (sharding.ranks == 0) return;
  const int world = mesh.world().size(), neighbours = sharding.ranks;
  if (world % neighbours != 0)
    core::fail_usage("parallel.shard_ranks is {}, expected a number that divides the world's, {}", neighbours, world);
  for (const WorldComm* ranks : {&mesh.data(), &mesh.edp(), &mesh.stage(), &mesh.pp()}) {
    const int apart = ranks->size() > 1 ? ranks->in_world(1) - ranks->in_world(0) : 1;
    if (neighbours % apart != 0 && apart % neighbours != 0)
      core::fail_usage(
          "parallel.shard_ranks is {}, expected a multiple or a divisor of {}, which the ranks of {} are apart",
          neighbours, apart, ranks->name());
  }
}

}  // namespace limbeck::parallel
