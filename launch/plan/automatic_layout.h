// parallel.layout "auto": the layout that a run takes is the fastest of those that fit into its ranks' memory
// (layout_search.h), as `limbeck plan` lists them first.
//
//     take_layout(world, config, std::nullopt, log);      // config.parallel.layout is "tp2ep2" from here on
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "launch/console/log.h"
#include "launch/plan/layout_search.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

/// This machine, so many ranks on it and as many on each other: `memory_bytes` for each rank. Rates are usual ones, for
/// layouts to be compared by, of no machine in particular (docs/parallelism.md has them).
Cluster usual_cluster(const RunConfig& config, int ranks_a_machine, int num_ranks, std::int64_t memory_bytes);

/// The same by what was measured of this machine (measured_machine.h), where that was; `log` hears of it.
Cluster machine_cluster(const RunConfig& config, int ranks_a_machine, int num_ranks, std::int64_t memory_bytes,
                        const Log& log);

/// Bytes that a rank may take of this machine with so many ranks on it: its part of nine tenths of what is available,
/// of the GPU where it has one. Throws a UsageError where the system does not say.
std::int64_t memory_of_rank_here(const RunConfig& config, int ranks_a_machine);

/// The same, but 0 where the system does not say, and with so many ranks that share the memory.
std::int64_t part_of_memory_here(const RunConfig& config, int sharers);

/// Collective: how many ranks of this one's machine say the same: of those that say what GPU they have, who share one
/// (bus_of_rank), and where all have none, who share the machine's memory.
int sharers_here(parallel::WorldComm& world, const std::string& mine);

/// Collective: of the machine that has most.
int most_ranks_a_machine(parallel::WorldComm& world);

/// Collective: the least of what each rank says.
std::int64_t least_over_ranks(core::Comm& world, std::int64_t mine);

/// The fastest that fits, with what it fits by. Throws an Error that names the smallest need where none does.
PlannedLayout automatic_layout(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                               const Cluster& cluster);

/// Collective: where parallel.layout is "auto" the first rank chooses, for all, and one line says what and why; of a
/// run that goes on in the folder `run`, what that has, if as many ranks were at it last.
void take_layout(const std::shared_ptr<parallel::WorldComm>& world, RunConfig& config,
                 const std::optional<std::filesystem::path>& run, const Log& log);

}  // namespace limbeck::launch
