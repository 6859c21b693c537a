// mpirun and its ranks, as a job that is watched: its standard error goes through this process, and nothing of it on
// this machine is left when the job is.
//
//     Job job({"mpirun", "-n", "2", "limbeck", "train", "c.textproto"});
//     while (!job.has_ended())
//       for (const std::string& line : job.read(std::chrono::milliseconds(200))) use(line);
//     return job.code();
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace limbeck::launch {

class Job {
 public:
  /// Starts the command in a process group of its own, so that a Ctrl-C comes to this process alone. Throws, with the
  /// system's reason, where it cannot be started. Where this process dies, the command gets a SIGTERM.
  explicit Job(const std::vector<std::string>& command);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// Waits so long at most for something of standard error, writes it to this process's, and gives the lines that are
  /// whole now.
  std::vector<std::string> read(std::chrono::milliseconds patience);
  bool has_ended();
  /// Whether it is stopped (SIGSTOP), as of the last has_ended().
  bool is_stopped() const { return is_stopped_; }
  /// Of one that has ended: as a shell has it, 128 + N after signal N.
  int code() const { return code_.value_or(0); }

  /// The ranks save and end with 3: mpirun passes SIGUSR1 on at once, to those that there are by then. One that is
  /// stopped goes on, to do so.
  void ask_to_stop() const;
  /// Ends it: mpirun is asked to, and gets some seconds for it; what is left of it here then is killed, also what is
  /// stopped (SIGSTOP). On other hosts mpirun's daemons end their ranks, as they do when they have lost it.
  void end();

 private:
  void take(int status);

  pid_t process_ = -1;
  int errors_ = -1;  // of its standard error, the end to read
  std::string begun_;
  std::optional<int> code_;
  bool is_stopped_ = false;
};

}  // namespace limbeck::launch
