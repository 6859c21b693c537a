// Work on many threads whose results are used in the order of the jobs: the same outcome for any number of threads.
//
//     OrderedWork<std::string, std::size_t> count;
//     count.read = [&]() -> std::optional<std::string> { return next_text(); };   // nothing: there are no more
//     count.work = [](std::string& text) { return std::count(text.begin(), text.end(), 'a'); };
//     count.write = [&](std::size_t n) { fmt::print("{}\n", n); };
//     count.run(/*threads=*/4);
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/start_thread.h"

namespace limbeck::data {

template <class Job, class Result>
class OrderedWork {
 public:
  std::function<std::optional<Job>()> read;  // called by one thread at a time, in order
  std::function<Result(Job&)> work;          // by many at once
  std::function<void(Result&&)> write;       // by one at a time, in the order of read
  std::function<std::int64_t(const Job&)> cost = [](const Job&) { return std::int64_t{1}; };
  std::int64_t most_cost = 64;  // no more is read while what is read and not yet written costs as much

  /// Until all that `read` gives is written. The first exception in the order of the jobs, from whichever function, is
  /// thrown after everything before it was written.
  void run(int threads) {
    std::vector<std::jthread> others;
    try {
      for (int t = 1; t < threads; ++t) others.push_back(core::start_thread("work on files", [this] { serve(); }));
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      error_ = std::current_exception();  // ends the others
      changed_.notify_all();
    }
    serve();
    others.clear();  // joins
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Done {
    std::optional<Result> result;
    std::exception_ptr error;
    std::int64_t cost = 0;
  };

  /// Each thread does what is most needed: write, else read and work, else wait.
  void serve() {
    std::unique_lock lock(mutex_);
    while (!error_ && !(at_end_ && num_written_ == num_read_)) {
      const auto ready = done_.find(num_written_);
      if (!is_writing_ && ready != done_.end())
        write_one(lock, ready);
      else if (!is_reading_ && !at_end_ && cost_ < most_cost)
        read_and_work(lock);
      else
        changed_.wait(lock);
    }
  }

  void write_one(std::unique_lock<std::mutex>& lock, typename std::map<std::int64_t, Done>::iterator ready) {
    is_writing_ = true;
    Done done = std::move(ready->second);
    done_.erase(ready);
    lock.unlock();
    if (!done.error) done.error = error_of([&] { write(std::move(*done.result)); });
    lock.lock();
    is_writing_ = false;
    cost_ -= done.cost;
    ++num_written_;
    if (done.error) error_ = done.error;
    changed_.notify_all();
  }

  void read_and_work(std::unique_lock<std::mutex>& lock) {
    is_reading_ = true;
    lock.unlock();
    std::optional<Job> job;
    Done done;
    done.error = error_of([&] {
      job = read();
      if (job) done.cost = cost(*job);
    });
    lock.lock();
    is_reading_ = false;
    at_end_ = !job || done.error;
    if (!job && !done.error) return changed_.notify_all();
    const std::int64_t index = num_read_++;
    cost_ += done.cost;
    changed_.notify_all();
    if (!done.error) {
      lock.unlock();
      done.error = error_of([&] { done.result = work(*job); });
      job.reset();
      lock.lock();
    }
    done_.emplace(index, std::move(done));
    changed_.notify_all();
  }

  template <class F>
  static std::exception_ptr error_of(F&& f) {
    try {
      f();
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::map<std::int64_t, Done> done_;  // by index, not yet written
  std::int64_t num_read_ = 0;
  std::int64_t num_written_ = 0;
  std::int64_t cost_ = 0;  // read and not yet written
  bool is_reading_ = false;
  bool is_writing_ = false;
  bool at_end_ = false;
  std::exception_ptr error_;
};

}  // namespace limbeck::data
