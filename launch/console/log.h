// The log of a run: to stderr, from rank 0 alone.
//
//     Log log = make_log(comm.rank(), options.verbosity);
//     log->info("teacher: {} layers", config.num_layers);
#pragma once

#include <spdlog/logger.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace limbeck::launch {

using Log = std::shared_ptr<spdlog::logger>;

enum class Verbosity : std::uint8_t {
  Quiet,    // errors that the run survives, such as a damaged checkpoint; others travel as exceptions
  Normal,   // info and warnings
  Verbose,  // also times of the parts, buckets, memory
};

/// Rank 0 says what the verbosity lets through; the others nothing. On a terminal each line takes the place of the live
/// line (progress.h), which comes back below.
Log make_log(int rank, Verbosity verbosity = Verbosity::Normal);

/// A message fit for a line, whatever a file's names in it hold: control characters as \xNN, and of more than a few
/// thousand bytes the beginning and the end.
std::string one_line(std::string_view message);

/// This process among those that mpirun or srun started, and how many of them share this machine; known before MPI is
/// up. {0, 1, false, 0} where there is no launcher.
struct LauncherRank {
  int rank = 0;
  int ranks_on_machine = 1;
  bool is_launched = false;
  int rank_on_machine = 0;
};
LauncherRank launcher_rank();
/// To be called before MPI is up, which in a process alone sets the same variables for itself.
void remember_launcher();

/// Whether this is another than the first rank of a launcher's: it leaves a command that one rank does to that one, and
/// says so.
bool is_left_to_first_rank(std::string_view command);

}  // namespace limbeck::launch
