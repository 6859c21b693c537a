// The folder of a run: config.textproto as resolved, metrics.jsonl, checkpoints/step_N/
// (data/checkpoints/checkpoint.h).
//
//     RunDirectory run = RunDirectory::open(config, options.resume);   // one rank; the others wait at a barrier
//     run.write_config(config);                                        // once the run began or was continued
//     Metrics metrics(run.metrics(), first_step);
//     begin_checkpoint(run.checkpoints(), step);
#pragma once

#include <filesystem>
#include <memory>

#include "data/files/file_lock.h"
#include "launch/config/config.h"

namespace limbeck::launch {

class RunDirectory {
 public:
  /// The folder at `path`, as it is: for ranks that did not make it, and for reading a run.
  explicit RunDirectory(std::filesystem::path path) : path_(std::move(path)) {}

  /// Makes config.output.dir, and keeps every other process out of it while the result or a copy lives (where the file
  /// system has locks). What is there stays as it is. Throws a UsageError that names the folder if it holds anything
  /// and `resume` is not set, or holds something else than a run; an Error if another process has it.
  static RunDirectory open(const RunConfig& config, bool resume);
  /// Throws that UsageError; what is there stays as it is.
  static void check_usable(const std::filesystem::path& folder, bool resume);
  /// Makes the folder a run, or notes what the run goes on with.
  void write_config(const RunConfig& config) const;
  /// Of one that was opened, before it is written to again: where it was removed since, or its lock, config, metrics or
  /// checkpoints were, what is missing is made anew. False where nothing is. Throws where another run is in it.
  bool make_whole(const RunConfig& config);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.textproto"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  /// Signs of life of the ranks (heartbeat.h).
  std::filesystem::path ranks() const { return path_ / "ranks"; }
  /// What `limbeck launch` has done (launch/supervision/launches.h).
  std::filesystem::path launches() const { return path_ / "launches.jsonl"; }

  /// True if there is a config and a folder of checkpoints.
  static bool is_run(const std::filesystem::path& path);
  /// True while a process has it open for a run, as far as the file system's locks tell.
  bool is_in_use() const;

 private:
  void take_lock();

  std::filesystem::path path_;
  std::shared_ptr<const data::FileLock> lock_;
};

}  // namespace limbeck::launch
