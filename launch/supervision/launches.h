// What `limbeck launch` did: an attempt is one start of the job, from its first rank's to the end of mpirun. A line
// each in RUN/launches.jsonl (docs/runs.md), and a table at the end.
//
//     const RunProgress before = read_progress(run);
//     ...                                                // the attempt
//     const Attempt attempt = ...; note_progress(attempt, before, read_progress(run));
//     add_line(run.launches(), to_json(attempt));
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/run/run_directory.h"
#include "launch/supervision/cause.h"

namespace limbeck::launch {

/// How far a run has come, as its files say.
struct RunProgress {
  struct Step {
    std::int64_t step;
    double time;  // when it was done, seconds since 1970 by the first rank's clock
  };
  struct Start {
    std::int64_t step;  // done before
    double time;        // when it set out
  };
  std::vector<Start> starts;
  std::vector<Step> steps;  // in order
};
/// Of a folder that is no run yet: nothing. What is damaged is not known either.
RunProgress read_progress(const RunDirectory& run);

enum class Ended : std::uint8_t { Done, Stopped, Failed };

struct Attempt {
  int number = 1;  // of this launch
  int ranks = 1;
  std::vector<std::string> without = {};  // hosts that had been left out
  double time = 0;                        // when it was started
  double seconds = 0;                     // that it took in all
  int code = 0;                           // of mpirun
  Ended ended = Ended::Done;
  std::optional<Cause> cause = std::nullopt;  // where it failed
  // Where it set out and how far it came, in steps done; nothing where it did not come to training. Of a run with a
  // baseline: of the one of both that it came to.
  std::optional<std::int64_t> from = std::nullopt, to = std::nullopt;
  // What the failure before cost: steps that had been done and are done again, and seconds from when step `from` was
  // first done to when this attempt set out from it. Nothing for the first attempt of a launch, and where the run had
  // not set out before.
  std::optional<std::int64_t> steps_lost = std::nullopt;
  std::optional<double> seconds_lost = std::nullopt;

  bool has_trained() const { return from && to && *to > *from; }
  /// Where a signal asked it to stop: whether it did so, though it failed. Before training, and in the measurement
  /// behind it, there is nothing to save, and the signal that mpirun passes on may end the ranks.
  bool has_obeyed() const { return !has_trained() || (cause && cause->kind == CauseKind::Signal); }
  /// The step in which it failed.
  std::int64_t failed_at() const { return to.value_or(0) + 1; }
};

/// Fills from, to and, of all but the first attempt, what was lost, from how far the run was before and is now. Does
/// nothing where it has not set out meanwhile: its last start is that of before. (Their number says nothing: where
/// there was no checkpoint to go on from, the run begins anew, and the list of its starts too.)
void note_progress(Attempt& attempt, const RunProgress& before, const RunProgress& after);

nlohmann::ordered_json to_json(const Attempt& attempt);
/// Appends it to the file; a warning's text where it cannot be written, else nothing.
std::string add_line(const std::filesystem::path& file, const nlohmann::ordered_json& line);

/// The attempts, a row each, and what was lost in all.
std::string to_text(std::span<const Attempt> attempts);

}  // namespace limbeck::launch
