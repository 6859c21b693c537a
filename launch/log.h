// The log of a run: to stderr, from rank 0 alone.
//
//     Log log = make_log(comm.rank());
//     log->info("teacher: {} layers", config.num_layers);
#pragma once

#include <spdlog/logger.h>

#include <memory>

namespace limbeck::launch {

using Log = std::shared_ptr<spdlog::logger>;

/// Rank 0 says info and worse; the others nothing, as their errors travel as exceptions.
Log make_log(int rank);

/// This process among those that mpirun or srun started, and how many of them share this machine; known before MPI is
/// up. {0, 1} where there is no launcher.
struct LauncherRank {
  int rank = 0;
  int ranks_on_machine = 1;
};
LauncherRank launcher_rank();

}  // namespace limbeck::launch
