// Watches the signs of life of an attempt's ranks, for what the job itself cannot say: a rank that is stopped or whose
// machine is gone, and ranks that all live and come no further.
//
//     Vigil vigil(run.ranks(), num_ranks, {.silent_after = 60s, .step_deadline = 1800s}, Clock::now());
//     if (const auto cause = vigil.look(Clock::now())) job.end();
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/run/clock.h"
#include "launch/supervision/cause.h"

namespace limbeck::launch {

class Vigil {
 public:
  struct Limits {
    std::chrono::duration<double> silent_after;   // without a new sign
    std::chrono::duration<double> step_deadline;  // without a step or operation of any rank; 0: none
  };
  /// A rank that has not begun yet may be silent this many times as long: programs are read, hosts are reached. So long
  /// may no rank come further before the first step: texts are read and models are made; and while all who do not wait
  /// for others wait for a disk, behind which they have the usual time again.
  static constexpr int patience = 10;

  /// The attempt begins `now`; signs that are in the folder already are of another.
  Vigil(std::filesystem::path folder, int num_ranks, Limits limits, Clock::time_point now);

  /// Reads the signs; what is wrong, if something is. Times are those of this process alone: clocks of other machines
  /// are not asked, and where this process was stopped itself, signs that have come meanwhile are read first.
  std::optional<Cause> look(Clock::time_point now);
  /// Such a time since the last look counts for nothing: the ranks may have been stopped with this process.
  void skip(std::chrono::duration<double> time);

 private:
  struct Seen {
    std::optional<Beat> before;  // another attempt's
    std::optional<Beat> beat;
    Clock::time_point since;  // of the beat, or the beginning
  };
  std::optional<Cause> find_silent(Clock::time_point now) const;
  /// The one host that all ranks without a sign are on, where others have ranks that give some.
  std::vector<std::string> find_lost(Clock::time_point now) const;
  std::optional<Cause> find_hung(Clock::time_point now) const;
  /// Whether some rank waits for a disk, and each for that or for others.
  bool waits_for_disks() const;

  std::filesystem::path folder_;
  Limits limits_;
  std::vector<Seen> ranks_;
  Clock::time_point moved_;    // when any rank was seen to have come further
  Clock::time_point at_disk_;  // when only disks were seen to hold them up; at first the beginning
};

}  // namespace limbeck::launch
