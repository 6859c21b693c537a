// What the config deals to the ranks that train the same parameters, between those who know of ranks and those who
// step.
//
//     GradientSync sync(parameters, mesh, memory, dtype, bucket_bytes, sharding_of(config.parallel));
//     SharedValues values(parameters, sync.groups(), bucket_bytes);
//     optim::Optimizer optimizer(dealt(trained, sync.groups(), values), settings, axis_comm);
#pragma once

#include <vector>

#include "launch/config/config.h"
#include "optim/groups.h"
#include "parallel/axes/shared_values.h"

namespace limbeck::launch {

parallel::Sharding sharding_of(const ParallelConfig& config);

/// The same with who shares what of them.
std::vector<optim::Trained> dealt(std::vector<optim::Trained> trained, const parallel::GradientGroups& groups,
                                  const parallel::SharedValues& values);

}  // namespace limbeck::launch
