#include "launch/watch/watched_runs.h"

#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "launch/report/event_file.h"
#include "launch/report/report.h"
#include "launch/run/heartbeat.h"
#include "launch/run/run_directory.h"
#include "launch/watch/watch_page.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int quiet_for_a_page = 10;       // times what a page takes
constexpr std::size_t most_points = 1024;  // of a series, however long the run: some more than a page draws

/// Sizes and times of files that a run writes to.
std::string look_at(const fs::path& file) {
  std::error_code error;
  const auto time = fs::last_write_time(file, error);
  if (error) return "-";
  const auto size = fs::is_directory(file, error) ? 0 : fs::file_size(file, error);
  return fmt::format("{}:{};", time.time_since_epoch().count(), size);
}

}  // namespace

WatchedRuns::WatchedRuns(std::vector<fs::path> runs) : runs_(std::move(runs)) {
  for (const fs::path& run : runs_)
    if (!RunDirectory::is_run(run))
      core::fail_usage("{}: is no run, expected the directory of one, with config.textproto", run.string());
  for (const fs::path& run : runs_) records_.emplace_back(RunDirectory(run).metrics(), most_points);
  names_ = names_apart(runs_);
  look();
}

std::string WatchedRuns::look_of_files() const {
  std::string look;
  for (const fs::path& path : runs_) {
    const RunDirectory run(path);
    for (const fs::path& file : {run.metrics(), run.config(), path / "start.json", run.checkpoints()})
      look += look_at(file);
    look += run.is_in_use() ? "r" : "s";
  }
  return look;
}

std::string WatchedRuns::written_page() {
  try {
    std::vector<RunResults> results;
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      results.push_back(read_run(RunDirectory(runs_[i]), records_[i]));
      results.back().name = names_[i];
    }
    return watch_page(results);
  } catch (const std::exception& error) {  // somebody removes it, or its disk has gone
    return page_without_runs(names_, error.what());
  }
}

std::string WatchedRuns::written_ranks() const {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < runs_.size(); ++i)
    for (const Beat& beat : read_beats(RunDirectory(runs_[i]).ranks()))
      all.push_back({{"run", names_[i]},
                     {"rank", beat.rank},
                     {"host", beat.host},
                     {"pid", beat.pid},
                     {"step", beat.step},
                     {"operation", beat.disk.empty() ? beat.operation : "waits for a disk: " + beat.disk},
                     {"waits", beat.is_waiting},
                     {"age", std::max(0.0, wall_time() - beat.time)}});
  return all.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::ordered_json::error_handler_t::replace);
}

void WatchedRuns::look() {
  const auto now = Clock::now();
  auto ranks = std::make_shared<const std::string>(written_ranks());
  std::shared_ptr<const std::string> page;
  if (now >= next_page_)
    if (std::string seen = look_of_files(); seen != last_look_) {
      page = std::make_shared<const std::string>(written_page());
      last_look_ = std::move(seen);
      next_page_ = now + quiet_for_a_page * (Clock::now() - now);
    }
  const std::lock_guard lock(mutex_);
  if (page) {
    page_ = std::move(page);
    ++news_.page;
  }
  if (!ranks_ || *ranks_ != *ranks) {
    ranks_ = std::move(ranks);
    ++news_.ranks;
  }
  changed_.notify_all();
}

void WatchedRuns::end() {
  const std::lock_guard lock(mutex_);
  has_ended_ = true;
  changed_.notify_all();
}

std::shared_ptr<const std::string> WatchedRuns::page() const {
  const std::lock_guard lock(mutex_);
  return page_;
}

std::shared_ptr<const std::string> WatchedRuns::ranks() const {
  const std::lock_guard lock(mutex_);
  return ranks_;
}

News WatchedRuns::news() const {
  const std::lock_guard lock(mutex_);
  return news_;
}

bool WatchedRuns::wait_for_news(const News& seen, std::chrono::milliseconds at_most) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, at_most, [&] { return has_ended_ || news_ != seen; });
  return !has_ended_;
}

}  // namespace limbeck::launch
