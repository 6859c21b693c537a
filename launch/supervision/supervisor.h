// A training job that is started again until it is done: what `limbeck launch` does.
//
//     Supervisor supervisor({.ranks = 8, .program = "/usr/bin/limbeck", .training = {"train", "c.textproto"}, ...},
//     log); return supervisor.run();        // the exit code; throws where it is of no use to go on
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/run_directory.h"
#include "launch/supervision/host_list.h"
#include "launch/supervision/job.h"
#include "launch/supervision/next_start.h"
#include "launch/supervision/vigil.h"

namespace limbeck::launch {

struct Supervised {
  int ranks = 1;
  std::vector<std::string> mpirun = {};                          // its options
  std::string program = {};                                      // limbeck
  std::vector<std::string> training = {};                        // its command and options
  bool resume = false;                                           // whether they have --resume
  RunConfig config = {};                                         // that they come to
  std::optional<std::filesystem::path> baseline = std::nullopt;  // the directory of the baseline's run, if it has one
  RestartLimits restarts = {};
  Vigil::Limits limits = {};
};

class Supervisor {
 public:
  Supervisor(Supervised what, Log log);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// 0: done; 3: stopped by a signal, and saved where there was something to save; 2: wrong use, which the job has told
  /// itself. Throws an Error that says why no more attempts are made.
  int run();

 private:
  Attempt attempt();
  /// The end of the job, and why, if the ranks' signs of life tell it; follows a request to stop.
  std::optional<Cause> watch(Job& job, Witness& witness);
  std::vector<std::string> command() const;
  bool is_locked() const;
  /// So long, and until nobody has the run's lock: a rank on another host may end late, and a file server keeps the
  /// lock of a host that is lost for a while (NFS 4: 90 s). False where it is asked to stop meanwhile.
  bool wait(std::chrono::seconds time) const;
  void leave_out(const std::string& host);
  std::vector<Beat> signs_of(int ranks) const;
  /// Of the run, and of its baseline's.
  std::vector<RunProgress> progress() const;
  /// Notes what came of it, in the file too.
  void keep(Attempt attempt, const std::vector<RunProgress>& before);
  void say_failed(const Attempt& attempt, const NextStart& next);

  Supervised what_;
  Log log_;
  RunDirectory run_;
  int ranks_;
  std::optional<std::string> layout_;  // in place of the config's
  std::vector<Attempt> attempts_;
  HostList hosts_;
  std::vector<std::string> without_;     // who was left out of them
  std::filesystem::path lists_;          // a temporary folder for lists without them; empty: the run's
  std::map<std::string, int> ranks_on_;  // each host that is not left out: the most that gave signs of life on it
  int num_hosts_ = 1;                    // of the last attempt
};

}  // namespace limbeck::launch
