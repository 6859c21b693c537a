#include "launch/run/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

TEST(Threads, ARankTakesItsShareOfTheCores) {
  EXPECT_EQ(threads_of_rank(3), 3);
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  const char* variable = "OMPI_COMM_WORLD_LOCAL_SIZE";
  for (const char* name : {variable, "SLURM_STEP_TASKS_PER_NODE"}) ::unsetenv(name);
  const int cores = threads_of_rank(0);
  EXPECT_LE(cores, CPU_COUNT(&before));  // a container's quota may be less
  EXPECT_EQ(cores, cores_of_rank().machine);
  EXPECT_FALSE(cores_of_rank().is_bound());
  ::setenv(variable, "2", 1);
  EXPECT_EQ(threads_of_rank(0), std::max(cores / 2, 1));
  ::setenv(variable, "1000", 1);
  EXPECT_EQ(threads_of_rank(0), 1);
  ::unsetenv(variable);
  ::setenv("SLURM_STEP_TASKS_PER_NODE", "1,2", 1);  // srun's, to a task on the second node
  ::setenv("SLURM_NODEID", "1", 1);
  EXPECT_EQ(threads_of_rank(0), std::max(cores / 2, 1));
  ::setenv(variable, "1", 1);  // mpirun's, within a step
  EXPECT_EQ(threads_of_rank(0), cores);
  for (const char* name : {variable, "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID"}) ::unsetenv(name);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int core = 0; CPU_COUNT(&one) == 0; ++core)
    if (CPU_ISSET(core, &before)) CPU_SET(core, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(threads_of_rank(0), 1);
  sched_setaffinity(0, sizeof before, &before);
}

TEST(Threads, ABoundRankTakesWhatItIsBoundToAndNoMoreThanItsShare) {
  // Sockets of 32 cores, of which each of eight ranks may use one whole: eight cores are a rank's, not 32.
  const RankCores sockets{.mine = 32, .machine = 64, .ranks = 8, .is_launched = true};
  EXPECT_TRUE(sockets.is_bound());
  EXPECT_EQ(std::min(sockets.mine, sockets.share()), 8);
  EXPECT_EQ((RankCores{.mine = 1, .machine = 2, .ranks = 4}).share(), 1);
}

class Quota : public ::testing::Test {
 protected:
  int cores(const std::string& membership) const {
    testing::write_file(folder_.path() / "membership", membership);
    return quota_of_cores(folder_.path() / "membership", folder_.path() / "groups");
  }
  void write(const std::string& file, const std::string& text) const {
    const fs::path path = folder_.path() / "groups" / file;
    fs::create_directories(path.parent_path());
    testing::write_file(path, text);
  }
  testing::TemporaryFolder folder_;
};

TEST_F(Quota, IsTheLeastOfTheGroupsAround) {
  write("a/b/cpu.max", "max 100000\n");
  write("a/cpu.max", "350000 100000\n");
  EXPECT_EQ(cores("0::/a/b\n"), 3);
  write("cpu.max", "200000 100000\n");
  EXPECT_EQ(cores("0::/a/b\n"), 2);
  write("a/b/cpu.max", "20000 100000\n");
  EXPECT_EQ(cores("0::/a/b\n"), 1);
}

TEST_F(Quota, OfAContainerStandsAtTheRoot) {
  write("cpu.max", "400000 50000\n");
  EXPECT_EQ(cores("0::/\n"), 8);
  EXPECT_EQ(cores("0::/docker/0123456789ab\n"), 8);  // its name outside
}

TEST_F(Quota, OfTheFirstVersionIsReadToo) {
  write("cpu,cpuacct/a/cpu.cfs_quota_us", "150000\n");
  write("cpu,cpuacct/a/cpu.cfs_period_us", "50000\n");
  write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("cpu,cpuacct/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(cores("5:memory:/a\n4:cpu,cpuacct:/a\n"), 3);
  EXPECT_EQ(cores("4:cpuset:/a\n"), 0);
}

TEST_F(Quota, ThereMayBeNone) {
  EXPECT_EQ(cores("0::/a\n"), 0);
  EXPECT_EQ(cores(""), 0);
  EXPECT_EQ(quota_of_cores("/no/such/file", folder_.path()), 0);
  write("cpu.max", "max 100000\n");
  EXPECT_EQ(cores("0::/\nnonsense\n"), 0);
  for (const char* nonsense : {"", "-5 100000", "5 0", "x y", "100000"}) {
    write("cpu.max", nonsense);
    EXPECT_EQ(cores("0::/\n"), 0) << nonsense;
  }
}

}  // namespace
}  // namespace limbeck::launch
