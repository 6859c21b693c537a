// Ranks as processes under MPI. Each rank has one communication thread that polls non-blocking transfers of all groups
// at once and pauses in between, so that it takes no compute core; within a node large sums go through shared
// memory.
//
//     MpiWorld world;                                  // MPI_Init; also alone, without mpirun
//     auto all = world.comm();
//     all->all_reduce(x, core::Reduce::Sum);
//
// Results are those of the thread ranks bit by bit: every reduction adds in rank order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/world.h"

namespace limbeck::parallel {

struct MpiOptions {
  Deadline deadline = default_deadline;
  std::int64_t largest_piece = std::int64_t{1} << 30;  // bytes of one message: MPI counts in 32 bits
  bool shares_memory = true;                           // large sums within a node go through shared memory
  bool reads_directly = true;  // false: as where no process may read another's memory, so that more goes through it
  /// What the user should know, a line, from the communication thread; on the rank that it concerns, once.
  std::function<void(const std::string&)> warn = {};
};

class MpiWorld {
 public:
  /// One a process, ever; its constructor and destructor are MPI_Init and MPI_Finalize. Throws an Error if MPI is
  /// running already or does not allow calls from several threads.
  explicit MpiWorld(MpiOptions options = {});
  /// After a failure the ranks take leave of each other for up to two seconds, so that each can report; where transfers
  /// are stuck then, MPI is left as it is, and the process must end by std::_Exit with a code that is not 0, upon which
  /// the launcher ends the others. Leaving by an exception stops the others.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const;
  int size() const;
  /// The group "world". It and what is split from it must not be used after the MpiWorld.
  std::shared_ptr<WorldComm> comm();

  /// True if this process was started by mpirun or srun as one of a group.
  static bool has_launcher();

 private:
  struct State;
  class Member;
  std::shared_ptr<State> state_;
};

}  // namespace limbeck::parallel
