// Runs a test body as N ranks on N threads.
//
//     run_ranks(4, [](RankWorld& world) { world.comm->barrier(); });
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/threads/thread_world.h"

namespace limbeck::testing {

struct RankWorld {
  int rank;
  int size;
  std::shared_ptr<parallel::WorldComm> comm;
};

/// Rethrows the first exception that a rank threw by itself; the others are stopped by it.
inline void run_ranks(int num_ranks, const std::function<void(RankWorld&)>& body,
                      parallel::Deadline deadline = std::chrono::seconds(60)) {
  parallel::ThreadWorld world(num_ranks, deadline);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(num_ranks));
  std::vector<bool> is_echo(errors.size());
  std::vector<std::thread> threads;
  std::mutex mutex;
  for (int r = 0; r < num_ranks; ++r)
    threads.emplace_back([&, r] {
      RankWorld mine{r, num_ranks, world.comm(r)};
      const auto note = [&](bool echo) {
        const std::scoped_lock lock(mutex);
        errors[static_cast<std::size_t>(r)] = std::current_exception();
        is_echo[static_cast<std::size_t>(r)] = echo;
      };
      try {
        body(mine);
      } catch (const parallel::PeerError&) {
        note(true);
      } catch (const std::exception& e) {
        note(false);
        mine.comm->abort(e.what());
      }
    });
  for (auto& thread : threads) thread.join();
  for (const bool echo : {false, true})
    for (std::size_t r = 0; r < errors.size(); ++r)
      if (errors[r] && is_echo[r] == echo) std::rethrow_exception(errors[r]);
}

}  // namespace limbeck::testing
