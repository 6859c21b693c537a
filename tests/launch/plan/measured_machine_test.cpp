#include "launch/plan/measured_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "launch/plan/automatic_layout.h"
#include "launch/plan/machine_rates.h"
#include "launch/run/heartbeat.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

/// An environment variable, put back at the end.
class Environment {
 public:
  Environment(std::string name, const char* value) : name_(std::move(name)) {
    if (const char* before = std::getenv(name_.c_str())) before_ = before;
    value != nullptr ? ::setenv(name_.c_str(), value, 1) : ::unsetenv(name_.c_str());
  }
  ~Environment() { before_ ? ::setenv(name_.c_str(), before_->c_str(), 1) : ::unsetenv(name_.c_str()); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::string name_;
  std::optional<std::string> before_;
};

TEST(MachineFile, LiesInTheUsersCache) {
  const std::string name = host_name() + "_2.textproto";
  const Environment home("HOME", "/home/somebody");
  {
    const Environment cache("XDG_CACHE_HOME", "/caches");
    EXPECT_EQ(machine_file(2), "/caches/limbeck/" + name);
  }
  for (const char* value : {static_cast<const char*>(nullptr), "", "not/absolute"}) {
    const Environment cache("XDG_CACHE_HOME", value);
    EXPECT_EQ(machine_file(2), "/home/somebody/.cache/limbeck/" + name);
    const Environment no_home("HOME", nullptr);
    EXPECT_EQ(machine_file(2), "");
  }
}

class MeasuredMachine : public ::testing::Test {
 protected:
  MeasuredMachine() {
    config.train.device = DeviceKind::Cpu;
    config.train.threads = 3;
    Cluster two{.name = "two", .devices_a_node = 2, .memory_gib = 8};
    two.float32_tflops = 0.5;
    two.bfloat16_tflops = 0.25;
    two.memory_gb_s = 20;
    two.kernel_gb_s = 5;
    two.threads = 3;
    two.inside = {.gb_s = 2, .latency_us = 3};
    save_cluster(machine_file(2), two, "");
  }
  const Log log = make_log(1);
  testing::TemporaryFolder folder;
  Environment cache{"XDG_CACHE_HOME", std::filesystem::path(folder / ".").c_str()};
  RunConfig config;
};

TEST_F(MeasuredMachine, IsOfAsManyRanksAndThreads) {
  const auto known = measured_machine(config, 2, 6, log);
  ASSERT_TRUE(known);
  EXPECT_EQ(known->nodes, 3);
  EXPECT_DOUBLE_EQ(known->kernel_rate(), 5e9);
  EXPECT_FALSE(measured_machine(config, 3, 6, log));
  config.train.threads = 2;
  EXPECT_FALSE(measured_machine(config, 2, 6, log));
}

// Of the memory, which others use too, what there is now counts; of machines' links what is usual, where one machine
// alone was measured.
TEST_F(MeasuredMachine, StandsInTheUsualOnesPlace) {
  const Cluster here = machine_cluster(config, 2, 4, std::int64_t{3} << 30, log);
  EXPECT_DOUBLE_EQ(here.float32_tflops, 0.5);
  EXPECT_DOUBLE_EQ(here.memory_gib, 3);
  EXPECT_DOUBLE_EQ(here.inside.latency_us, 3);
  EXPECT_DOUBLE_EQ(here.between.gb_s, usual_cluster(config, 2, 4, 1).between.gb_s);
  EXPECT_DOUBLE_EQ(machine_cluster(config, 4, 4, 1 << 30, log).float32_tflops,
                   usual_cluster(config, 4, 4, 1 << 30).float32_tflops);
}

// Steps of 1 + 6 / 2 and 2 + 4 / 2 s are met exactly by 2 GB/s; where nothing does, relative errors count: of x = 1 /
// rate the least of (1 + x - 2)^2 / 4 + (1 + x - 3)^2 / 9 is at x = (1/4 + 2/9) / (1/4 + 1/9) = 17/13.
TEST(FittedKernelRate, IsTheNearest) {
  EXPECT_NEAR(fitted_kernel_rate(std::vector<MeasuredStep>{{"a", 4, 1, 6}, {"b", 4, 2, 4}}), 2, 1e-12);
  EXPECT_NEAR(fitted_kernel_rate(std::vector<MeasuredStep>{{"a", 2, 1, 1}, {"b", 3, 1, 1}}), 13.0 / 17, 1e-12);
  EXPECT_GT(fitted_kernel_rate(std::vector<MeasuredStep>{{"a", 1, 2, 1}}), 1e5);
  EXPECT_DOUBLE_EQ((MeasuredStep{"a", 4, 1, 6}).planned(3), 3);
}

TEST(MachineRates, AreOfWhatRuns) {
  const core::MemoryPtr memory = core::Memory::cpu(1);
  const double float32 = product_rate(memory, core::DType::F32), bytes = memory_rate(memory);
  EXPECT_GT(float32, 1e8);  // within what processors of today do
  EXPECT_LT(float32, 1e13);
  EXPECT_GT(bytes, 1e8);
  EXPECT_LT(bytes, 1e12);
  int calls = 0, before = 0;
  EXPECT_GT(median_seconds(
                3, [&] { ++calls; }, [&] { ++before; }),
            0);
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(before, 3);
}

TEST(MachineRates, OfLinksAreTheGroups) {
  std::vector<ClusterLink> links(2);
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    links[static_cast<std::size_t>(world.rank)] = link_rate(world.comm, core::Memory::cpu(1));
    EXPECT_DOUBLE_EQ(mean_over(*world.comm, world.rank), 0.5);
  });
  EXPECT_GT(links[0].gb_s, 1e-3);
  EXPECT_LT(links[0].gb_s, 1e4);
  EXPECT_GT(links[0].latency_us, 0);
}

}  // namespace
}  // namespace limbeck::launch
