#include "launch/run/threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

#include "launch/console/log.h"

namespace limbeck::launch {
namespace {

/// Cores that a process may run on; 0 where it cannot be told.
int allowed_cores(pid_t process) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(process, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 0;
}

}  // namespace

int threads_of_rank(std::int64_t wanted) {
  if (wanted > 0) return static_cast<int>(wanted);
  const int mine = allowed_cores(0);
  const bool is_bound = mine > 0 && mine < allowed_cores(getppid());  // the launcher gave this rank cores of its own
  return std::max(is_bound ? mine : mine / launcher_rank().ranks_on_machine, 1);
}

}  // namespace limbeck::launch
