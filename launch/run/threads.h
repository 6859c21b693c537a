// How many threads a rank computes with, and of what cores.
//
//     Rank rank(world, layout, threads_of_rank(config.train.threads));
//     say_ranks(rank, config, log);           // one line, and a warning where the launcher holds cores back
#pragma once

#include <cstdint>
#include <filesystem>

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

struct RankCores {
  int mine = 1;     // that this rank may use
  int machine = 1;  // that all ranks of the machine may use together
  int quota = 0;    // what a container's limit makes of `machine`, where that is less; 0: there is none
  int ranks = 1;    // of the launcher's on this machine
  bool is_launched = false;

  /// An equal part of the machine's for this rank, at least 1.
  int share() const;
  /// Whether the launcher bound this rank to fewer than all.
  bool is_bound() const { return is_launched && mine < machine; }
};

RankCores cores_of_rank();

/// Cores that the limits of processor time around this process come to (control groups, versions 1 and 2: cpu.max,
/// cpu.cfs_quota_us), rounded down but at least 1; 0 where there are none. `membership` is /proc/self/cgroup, `root`
/// the folder where the groups are.
int quota_of_cores(const std::filesystem::path& membership, const std::filesystem::path& root);

/// Threads for this rank: `wanted`, or if that is 0, its share of the machine's cores, as far as it may use so many. At
/// least 1.
int threads_of_rank(std::int64_t wanted);

/// Collective: ranks, threads, cores and binding in one line; and what to do where a rank is bound to fewer cores than
/// its share.
void say_ranks(Rank& rank, const RunConfig& config, const Log& log);

}  // namespace limbeck::launch
