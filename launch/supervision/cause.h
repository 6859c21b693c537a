// Why an attempt ended: what the ranks and mpirun said on standard error, and the ranks' last signs of life.
//
//     Witness witness;
//     for (const std::string& line : job.read(timeout)) witness.hear(line);
//     Cause cause = witness.cause(code);
//     place(cause, read_beats(run.ranks()));                // its host, step and last operation
//     log->warn("{}", to_text(cause));
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/run/heartbeat.h"

namespace limbeck::launch {

enum class CauseKind : std::uint8_t {
  Error,        // a rank said why it ended
  Signal,       // a rank was ended by a signal
  Silent,       // a rank gives no sign of life
  Hung,         // all live, and none has come further
  Unavailable,  // mpirun has not got the hosts or slots that it was asked for
  Passing,      // the name of a host cannot be resolved for the moment
  Unknown,      // an exit code is all there is
};

struct Cause {
  CauseKind kind = CauseKind::Unknown;
  std::string what = {};                   // in words, equal where it is the same
  std::optional<int> rank = std::nullopt;  // whose fault it is, where that is known
  std::string host = {};                   // its machine, or the one that mpirun has not got
  std::int64_t step = 0;                   // that it was at; 0: before the first, or not known
  std::string operation = {};
  /// Hosts that may be gone: that ssh does not reach, whose daemon mpirun has lost, or that alone are silent.
  std::vector<std::string> lost = {};
  bool is_unreached = false;  // they are: by ssh, which says no name that it cannot ask for now
};

/// Takes host, step and operation from the last sign of the cause's rank, where there is one.
void place(Cause& cause, const std::vector<Beat>& beats);
/// "rank 1 on node1, at step 42, in all_reduce(sum) of 9 float64 in group dp: ended by signal 9"
std::string to_text(const Cause& cause);

class Witness {
 public:
  /// A line of the job's standard error.
  void hear(std::string_view line);
  /// The best that was heard so far, if anything was.
  std::optional<Cause> heard() const;
  /// Of a job that ended with `code`: that, or the code.
  Cause cause(int code) const;

 private:
  std::optional<Cause> signal_, error_, unavailable_;  // the first of each
};

}  // namespace limbeck::launch
