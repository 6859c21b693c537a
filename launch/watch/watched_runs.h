// Runs that somebody watches while they go on: their page, written anew when their files say more, and their ranks'
// signs of life.
//
//     WatchedRuns watched({"runs/a", "runs/b"});
//     std::jthread looking([&] { while (...) watched.look(); });
//     watched.page();                                                // as HTML
//     watched.wait_for_news(seen, std::chrono::seconds(5));          // of other threads
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "launch/run/run_record.h"

namespace limbeck::launch {

/// What is known, by a number each that grows with what is new.
struct News {
  std::uint64_t page = 0;
  std::uint64_t ranks = 0;
  friend bool operator==(const News&, const News&) = default;
};

class WatchedRuns {
 public:
  /// Run directories. Throws a UsageError where one of them is none.
  explicit WatchedRuns(std::vector<std::filesystem::path> runs);

  /// Looks at the files, of which it reads only what has changed, and tells those who wait. A page is not written anew
  /// before ten times the time that the last one took. Of one thread.
  void look();
  /// Those who wait are told that there will be no more news.
  void end();

  /// Of any thread. The page says so where its runs cannot be read at the moment.
  std::shared_ptr<const std::string> page() const;
  /// [{"run": "a", "rank": 0, "host": "h", "pid": 7, "step": 12, "operation": "...", "waits": false, "age": 0.4}, ...]:
  /// by run and rank, with the seconds since each was heard of.
  std::shared_ptr<const std::string> ranks() const;
  News news() const;
  /// Returns when there are others than `seen`, or so much time has gone by; false: there will be none.
  bool wait_for_news(const News& seen, std::chrono::milliseconds at_most) const;

 private:
  std::string look_of_files() const;
  std::string written_page();
  std::string written_ranks() const;

  std::vector<std::filesystem::path> runs_;
  std::vector<std::string> names_;
  std::vector<RecordReader> records_;  // of the looking thread alone, as the next two
  std::string last_look_;
  std::chrono::steady_clock::time_point next_page_{};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::shared_ptr<const std::string> page_, ranks_;
  News news_;
  bool has_ended_ = false;
};

}  // namespace limbeck::launch
