#include "launch/run/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>

namespace limbeck::launch {
namespace {

TEST(Threads, ARankTakesItsShareOfTheCores) {
  EXPECT_EQ(threads_of_rank(3), 3);
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  const char* variable = "OMPI_COMM_WORLD_LOCAL_SIZE";
  ::unsetenv(variable);
  const int cores = CPU_COUNT(&before);
  EXPECT_EQ(threads_of_rank(0), cores);
  ::setenv(variable, "2", 1);
  EXPECT_EQ(threads_of_rank(0), std::max(cores / 2, 1));
  ::setenv(variable, "1000", 1);
  EXPECT_EQ(threads_of_rank(0), 1);
  ::unsetenv(variable);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int core = 0; CPU_COUNT(&one) == 0; ++core)
    if (CPU_ISSET(core, &before)) CPU_SET(core, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(threads_of_rank(0), 1);
  sched_setaffinity(0, sizeof before, &before);
}

}  // namespace
}  // namespace limbeck::launch
