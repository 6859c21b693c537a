#include "launch/run/energy_meter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "launch/run/step_footprint.h"
#include "tests/support/places.h"
#include "tests/support/powercap.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using testing::Powercap;

constexpr std::int64_t range = 1'000'000'000;  // microjoules: 1 kJ

TEST(EnergyMeter, AddsPackagesAndTheirMemoryAlone) {
  const Powercap powercap;
  powercap.zone("intel-rapl:0", "package-0", 100, range);
  powercap.zone("intel-rapl:0/intel-rapl:0:0", "core", 10, range);
  powercap.zone("intel-rapl:0/intel-rapl:0:1", "dram", 20, range);
  powercap.zone("intel-rapl:1", "package-1", 200, range);
  powercap.zone("intel-rapl:2", "psys", 1000, range);
  powercap.zone("intel-rapl-mmio:0", "package-0", 100, range);
  EnergyMeter meter(false, powercap.path());
  EXPECT_EQ(meter.by(), "RAPL");
  EXPECT_EQ(meter.take(), 0.0);
  powercap.set("intel-rapl:0", 3'000'100);
  powercap.set("intel-rapl:0/intel-rapl:0:0", 2'000'010);
  powercap.set("intel-rapl:0/intel-rapl:0:1", 500'020);
  powercap.set("intel-rapl:1", 4'000'200);
  powercap.set("intel-rapl:2", 9'001'000);
  powercap.set("intel-rapl-mmio:0", 3'000'100);
  EXPECT_DOUBLE_EQ(meter.take().value(), 7.5);
  EXPECT_EQ(meter.take(), 0.0);  // since the last time
}

TEST(EnergyMeter, ACounterBeginsAnewAfterItsRange) {
  const Powercap powercap;
  powercap.zone("intel-rapl:0", "package-0", range - 2'000'000, range);
  EnergyMeter meter(false, powercap.path());
  powercap.set("intel-rapl:0", 5'000'000);
  EXPECT_DOUBLE_EQ(meter.take().value(), 7.0);
  powercap.set("intel-rapl:0", 6'000'000);
  EXPECT_DOUBLE_EQ(meter.take().value(), 1.0);
}

TEST(EnergyMeter, KnowsNothingWhereACounterCannotBeRead) {
  const Powercap powercap;
  EXPECT_EQ(EnergyMeter(false, powercap.path() / "none").by(), "");
  EXPECT_EQ(EnergyMeter(false, powercap.path()).take(), std::nullopt);
  powercap.zone("intel-rapl:0", "package-0", 100, range);
  powercap.zone("intel-rapl:1", "package-1", 100, range);
  EnergyMeter meter(false, powercap.path());
  EXPECT_EQ(meter.by(), "RAPL");
  powercap.write("intel-rapl:1/energy_uj", "none");
  EXPECT_EQ(EnergyMeter(false, powercap.path()).by(), "");  // one package of two is not the machine
  EXPECT_EQ(meter.take(), std::nullopt);
  powercap.set("intel-rapl:1", 100);
  EXPECT_EQ(meter.take(), std::nullopt);  // for good: what was between is not known
}

TEST(EnergyMeter, AddsGpusByNvml) {
  const Powercap powercap;
  const std::string library = testing::program().parent_path().parent_path() / "tests/fake_nvml.so";
  EXPECT_EQ(EnergyMeter(true, powercap.path(), library + ".none").by(), "");
  EnergyMeter meter(true, powercap.path(), library);
  EXPECT_EQ(meter.by(), "NVML");
  EXPECT_DOUBLE_EQ(meter.take().value(), 14.0);  // 7 J each
  powercap.zone("intel-rapl:0", "package-0", 100, range);
  EnergyMeter both(true, powercap.path(), library);
  powercap.set("intel-rapl:0", 1'000'100);
  EXPECT_EQ(both.by(), "RAPL and NVML");
  EXPECT_DOUBLE_EQ(both.take().value(), 15.0);
  EXPECT_EQ(EnergyMeter(false, powercap.path(), library).by(), "RAPL");
}

/// Two machines with two ranks each see the same counters here, one rank of each reads them.
TEST(StepFootprint, EachMachineCountsOnce) {
  const Powercap powercap;
  powercap.zone("intel-rapl:0", "package-0", 0, range);
  ASSERT_EQ(setenv("LIMBECK_POWERCAP", powercap.path().c_str(), 1), 0);
  testing::run_ranks(
      4,
      [&](testing::RankWorld& world) {
        Rank rank(world.comm, "dp4", 1);
        EXPECT_FALSE(is_on_one_machine(rank));
        StepFootprint footprint(rank);
        const auto add = [&](std::int64_t microjoules) {
          world.comm->barrier();
          if (world.rank == 0) powercap.set("intel-rapl:0", microjoules);
          world.comm->barrier();
        };
        add(1'000'000);  // between the steps
        footprint.begin_step();
        add(4'000'000);
        footprint.end_step(MemoryParts{.parameters = 100 * (world.rank + 1)}, 0);
        stop_is_agreed(rank, {footprint.numbers()});
        nlohmann::ordered_json line;
        footprint.add_to(line);
        EXPECT_DOUBLE_EQ(line["joules"].get<double>(), 6.0);
        EXPECT_EQ(line["memory_bytes"]["parameters"], 400);  // of the rank that has most
        EXPECT_EQ(footprint.energy_by(), world.rank % 2 == 0 ? "RAPL" : "");
      },
      std::chrono::seconds(60), /*ranks_a_node=*/2);
  unsetenv("LIMBECK_POWERCAP");
}

}  // namespace
}  // namespace limbeck::launch
