#include "launch/run/saves.h"

#include <chrono>
#include <utility>

#include "core/error.h"
#include "core/start_thread.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {
namespace {

/// Adds what a scope takes.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds) {}
  ~Timed() { seconds_ += lap(since_); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
  Clock::time_point since_ = Clock::now();
};

}  // namespace

Saves::Saves(Rank& rank, std::function<bool()> make_whole)
    : rank_(rank), make_whole_(std::move(make_whole)), copy_(rank.host_memory()) {}

void Saves::begin(Save save, bool beside_steps) {
  core::check(phase_ == Phase::None, "saves: step {} begins while step {} is saved", save.step, save_.step);
  const Timed timed(stall_);
  begun_ = Clock::now();
  save_ = std::move(save);
  beside_steps_ = beside_steps;
  if (beside_steps) save_.state = copy_.take(save_.state);
  attempt([&] { write(); });
}

bool Saves::is_at_work() const {
  return outcome_.valid() && outcome_.wait_for(std::chrono::seconds(0)) == std::future_status::timeout;
}

void Saves::go_on() {
  if (phase_ == Phase::None) return;
  const Timed timed(stall_);
  attempt([&] { next_phase(); });
}

void Saves::finish() {
  while (phase_ != Phase::None) go_on();
}

/// Collective. What fails fails on every rank; the save then begins anew, where the run directory had gone.
void Saves::attempt(const std::function<void()>& part) {
  try {
    part();
    return;
  } catch (const parallel::PeerError&) {
    throw;
  } catch (const core::Error&) {
    phase_ = Phase::None;
    if (!directory_had_gone()) throw;
  }
  attempt([&] { write(); });
}

bool Saves::directory_had_gone() {
  std::string is_made;
  on_first_rank(rank_, [&] { is_made = make_whole_() ? "yes" : ""; });
  return !gather_strings(rank_, is_made).front().empty();
}

/// Sets every rank to its file.
void Saves::write() {
  std::string folder;
  on_first_rank(rank_, [&] { folder = data::begin_checkpoint(save_.checkpoints, save_.step).string(); });
  temporary_ = gather_strings(rank_, folder).front();
  on_every_rank(rank_, [&] {
    set_to_work([this, rank = rank_.world().rank()](const std::stop_token& stop) {
      return data::to_text(data::write_rank_file(temporary_, rank, save_.step, save_.state, stop));
    });
  });
  phase_ = Phase::Writing;
}

/// Sets the first rank to the rest, when all files are there.
void Saves::publish(const std::vector<std::string>& rank_files) {
  on_first_rank(rank_, [&] {
    set_to_work([this, rank_files](const std::stop_token&) {
      std::vector<data::RankFileInfo> infos;
      for (const std::string& text : rank_files) infos.push_back(data::rank_file_info_from_text(text));
      const std::filesystem::path folder = data::finish_checkpoint(temporary_, infos, save_.extra);
      const data::Keep& keep = save_.keep;
      if (keep.best_step) data::point_to_best(save_.checkpoints, *keep.best_step);
      data::prune_checkpoints(save_.checkpoints, save_.step, keep);
      if (keep.best_step && !keep.damaged.empty())  // if it was one
        data::point_to_best(save_.checkpoints, *keep.best_step);
      return folder.string();
    });
  });
  phase_ = Phase::Publishing;
}

void Saves::next_phase() {
  std::string mine;
  on_every_rank(rank_, [&] {
    if (thread_.joinable()) thread_.join();  // what it threw is this thread's alone then
    if (outcome_.valid()) mine = outcome_.get();
  });
  const std::vector<std::string> all = gather_strings(rank_, mine);
  if (phase_ == Phase::Writing) return publish(all);
  phase_ = Phase::None;
  finished_ = {all.front(), std::chrono::duration<double>(Clock::now() - begun_).count()};
}

/// On a thread, or where the steps wait for it, on this one when its outcome is asked for.
void Saves::set_to_work(Work work) {
  if (!beside_steps_) {
    outcome_ = std::async(std::launch::deferred, std::move(work), std::stop_token());
    return;
  }
  std::packaged_task<std::string(const std::stop_token&)> task(std::move(work));
  outcome_ = task.get_future();
  thread_ = core::start_thread("writing a checkpoint", std::move(task));
}

}  // namespace limbeck::launch
