// A group of ranks that can be cut into smaller groups. Two worlds make such groups: threads of one process
// (thread_world.h) and processes under MPI (mpi_world.h).
//
//     ThreadWorld world(4);                                   // or: MpiWorld world;
//     std::shared_ptr<WorldComm> all = world.comm(rank);      //     world.comm()
//     auto pair = all->split(/*color=*/rank / 2, /*key=*/rank, "ep");
//     pair->all_reduce(x, core::Reduce::Sum);
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/comm.h"
#include "core/error.h"

namespace limbeck::parallel {

/// Another rank stopped the world: its message, which that rank reports itself, so that a run prints it once.
class PeerError : public core::Error {
 public:
  using core::Error::Error;
};

/// How long one wait for the other ranks may last before the whole world is stopped.
using Deadline = std::chrono::milliseconds;
inline constexpr Deadline default_deadline = std::chrono::minutes(10);

class Engine;

class WorldComm : public core::Comm {
 public:
  /// Ranks of equal `color` become a group, ordered by `key`, then by rank here. Every rank of this group calls it, in
  /// the same order as its other collectives.
  virtual std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) = 0;
  /// This rank's, of all groups of the world (engine.h): for operations that go elsewhere than by it.
  virtual Engine& engine() = 0;
  /// The number in the world of one of the group's ranks.
  virtual int in_world(int rank) const = 0;
  /// The node of one of the group's ranks: a number that is equal on one node.
  virtual int node_of(int rank);
};

}  // namespace limbeck::parallel
