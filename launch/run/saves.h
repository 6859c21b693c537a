// A run's checkpoints, one after the other, each written by a thread of every rank while the steps go on. What makes a
// checkpoint whole is agreed by the ranks between steps, by their computing threads: those that write exchange nothing.
//
//     Saves saves(rank, [&] { return directory.make_whole(config); });
//     saves.begin({.checkpoints = run / "checkpoints", .step = 20, .state = steps.state(), .extra = extra}, true);
//     for (;;) {
//       step();
//       if (none of the ranks says saves.is_at_work()) saves.go_on();
//     }
//     saves.finish();
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "core/state_dict.h"
#include "data/checkpoints/checkpoint.h"
#include "launch/run/clock.h"
#include "launch/run/rank.h"
#include "launch/run/run_state.h"

namespace limbeck::launch {

/// What is saved: this rank's part of the state, and which checkpoints stay when it is whole; that of keep.best_step
/// becomes checkpoints/best.
struct Save {
  std::filesystem::path checkpoints;
  std::int64_t step = 0;
  core::StateDict state;
  std::string extra;
  data::Keep keep = {};
};

/// A kill at any instant leaves checkpoints that are whole, among them the best before, or the one that is saved.
class Saves {
 public:
  /// `make_whole` is asked on the first rank when a save fails: whether the run directory had gone, and is made again;
  /// then the save is made again, of the same state.
  Saves(Rank& rank, std::function<bool()> make_whole);
  /// Gives up what is being written.
  ~Saves() = default;
  Saves(const Saves&) = delete;
  Saves& operator=(const Saves&) = delete;

  /// Collective, where none is under way. `beside_steps`: the state is copied, and threads begin to write the copy;
  /// else it is written in finish(), which comes before the state changes.
  void begin(Save save, bool beside_steps);
  /// Of this rank's copy, which stays from the first that is made.
  std::int64_t copied_bytes() const { return copy_.bytes(); }
  /// Whether this rank's thread has something to do.
  bool is_at_work() const;
  /// Collective, when that is true of no rank: what follows of the save under way, if there is one. What failed on one
  /// rank every rank throws.
  void go_on();
  /// Collective: waits until the checkpoint is whole. Other ranks hear meanwhile that somebody is at it.
  void finish();

  struct Finished {
    std::filesystem::path folder;
    double seconds = 0;  // from begin() on
  };
  /// A checkpoint that has become whole since it was last asked.
  std::optional<Finished> take_finished() { return std::exchange(finished_, std::nullopt); }
  /// Seconds that begin(), go_on() and finish() took since it was last asked.
  double take_stall() { return std::exchange(stall_, 0); }

 private:
  enum class Phase : std::uint8_t { None, Writing, Publishing };
  using Work = std::function<std::string(const std::stop_token&)>;

  void attempt(const std::function<void()>& part);
  bool directory_had_gone();
  void write();
  void publish(const std::vector<std::string>& rank_files);
  void next_phase();
  void set_to_work(Work work);

  Rank& rank_;
  std::function<bool()> make_whole_;
  StateCopy copy_;
  Save save_;
  bool beside_steps_ = false;
  Phase phase_ = Phase::None;
  std::filesystem::path temporary_;
  Clock::time_point begun_;
  double stall_ = 0;
  std::optional<Finished> finished_;
  std::future<std::string> outcome_;  // this rank's part of the phase, where it has one
  std::jthread thread_;               // ended before what it uses
};

}  // namespace limbeck::launch
