#include "parallel/threads/run_ranks.h"

#include <exception>
#include <thread>
#include <vector>

#include "core/start_thread.h"
#include "parallel/threads/thread_world.h"

namespace limbeck::parallel {

void run_ranks(int num_ranks, const std::function<void(const std::shared_ptr<WorldComm>&)>& body, Deadline deadline,
               int ranks_a_node) {
  ThreadWorld world(num_ranks, deadline, ranks_a_node);
  std::vector<std::shared_ptr<WorldComm>> comms;
  for (int rank = 0; rank < num_ranks; ++rank) comms.push_back(world.comm(rank));
  std::vector<std::exception_ptr> errors(comms.size()), echoes(comms.size());  // a rank's own, and that of another
  const auto run = [&](std::size_t rank) {
    try {
      body(comms[rank]);
    } catch (const PeerError&) {
      echoes[rank] = std::current_exception();
    } catch (const std::exception& e) {
      errors[rank] = std::current_exception();
      comms[rank]->abort(e.what());
    }
  };
  {
    std::vector<std::jthread> threads;
    try {
      for (std::size_t rank = 0; rank < comms.size(); ++rank)
        threads.push_back(core::start_thread("a rank", [&run, rank] { run(rank); }));
    } catch (const std::exception& e) {
      comms.front()->abort(e.what());  // those that run wait for one that never comes
      throw;
    }
  }
  for (const auto& list : {errors, echoes})
    for (const std::exception_ptr& error : list)
      if (error) std::rethrow_exception(error);
}

}  // namespace limbeck::parallel
