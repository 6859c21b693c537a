// Whether a job that failed is started again, and with how many ranks.
//
//     NextStart next = next_start(attempts, {.max_restarts = 10, .min_ranks = 2}, config.parallel, hosts);
//     if (!next.ranks) core::fail("{}", next.why);
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "launch/config/config.h"
#include "launch/supervision/launches.h"

namespace limbeck::launch {

struct RestartLimits {
  int max_restarts = 10;
  std::optional<int> min_ranks = std::nullopt;  // elastic: so few at least; nothing: always the same number
};

struct NextStart {
  std::optional<int> ranks = std::nullopt;            // nothing: not again
  std::optional<std::string> layout = std::nullopt;   // parallel.layout, where another than the config's is needed
  std::string why = {};                               // in words
  std::optional<std::string> without = std::nullopt;  // a host that is left out from now on
  std::chrono::seconds wait{0};                       // before it
};

struct KnownHosts {
  int count = 1;    // that the ranks of the last attempt were on
  int num_far = 0;  // HostList::num_far
  /// Ranks that there is room for without a host; nothing where it cannot be left out.
  std::function<std::optional<int>(const std::string& host)> room_without = nullptr;
};

/// The largest number of ranks below `ranks`, and no less than `least`, that parallel.layout can have: any where none
/// is named or it is auto; of others as world_fault says (parallel/axes/mesh.h), without the dp that it may name, which
/// is what gives way. The teacher's ranks stay as many, and shard_ranks divides the world. The batch is of all ranks
/// (batch.sequences_per_step), so that its tokens stay the same. Nothing where there is none.
NextStart fewer_ranks(const ParallelConfig& config, int ranks, int least);

/// Before the start that follows so many attempts in a row that ended by what passes: 5, 10, 20, 40, 60, 60, ... s.
std::chrono::seconds wait_after(std::int64_t times);

/// What follows the last of the attempts, which failed:
/// - wrong use (exit code 2) is not tried again, nor is anything after so many restarts;
/// - after trouble of the network, which passes (names of hosts that are not resolved for the moment, or several hosts
///   that ssh is needed for of which it reaches none), and once the run has set out where a host is not reached that
///   cannot be left out, which may be starting anew: again as it was, after a wait. Such attempts are none of those
///   that the following compares;
/// - two attempts with as many ranks over the same hosts that ended before they did a step, or in the same step by the
///   same cause, which for an error is what is said, whichever rank says it, and is never that something is stopped: no
///   more, where the last ended by an error;
/// - a host that is not reached when the ranks are to be started, or that was lost twice in a row (Cause::lost):
///   without it, where it can be left out; with as many ranks, if there is room for them elsewhere, or with min_ranks
///   as there is;
/// - with min_ranks, where mpirun lacks hosts or slots and names no host, or the same rank or the same one of several
///   hosts was at fault twice in a row: fewer ranks; where there can be none, hosts or slots that lack end it;
/// - two such attempts whatever ended them: no more;
/// - else again as it was.
NextStart next_start(std::span<const Attempt> all, const RestartLimits& limits, const ParallelConfig& config,
                     const KnownHosts& hosts);

}  // namespace limbeck::launch
