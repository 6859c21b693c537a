#include "launch/run/sharing.h"

namespace limbeck::launch {

static_assert(static_cast<int>(Shard::Optimizer) == static_cast<int>(parallel::Sharded::OptimizerState));
static_assert(static_cast<int>(Shard::Parameters) == static_cast<int>(parallel::Sharded::Parameters));

parallel::Sharding sharding_of(const ParallelConfig& config) {
  return {static_cast<parallel::Sharded>(config.shard), static_cast<int>(config.shard_ranks)};
}

std::vector<optim::Trained> dealt(std::vector<optim::Trained> trained, const parallel::GradientGroups& groups,
                                  const parallel::SharedValues& values) {
  if (groups.shares(parallel::Sharded::OptimizerState))
    for (optim::Trained& t : trained)
      t.sharers = {.ranks = groups.of(*t.parameter).sharers.get(),
                   .writes = values.writes(*t.parameter),
                   .gradients = groups.shares(parallel::Sharded::Gradients),
                   .value = values.share(*t.parameter)};
  return trained;
}

}  // namespace limbeck::launch
