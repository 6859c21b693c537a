// Whether cuDNN takes the graphs that attention is asked for by, on GPUs that are described to it: none is needed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/cuda/with_cudnn/attention_library.h"

namespace limbeck::kernels {
namespace {

std::string described(const std::string& name, int architecture, int multiprocessors, int shared_memory) {
  return R"({"deviceName": ")" + name + R"(", "deviceVer": )" + std::to_string(10 * architecture) +
         R"(, "multiProcessorCount": )" + std::to_string(multiprocessors) + R"(, "maxSharedMemoryPerBlockOptin": )" +
         std::to_string(shared_memory) +
         R"(, "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "warpSize": 32, "maxSharedMemoryPerBlock": 49152, "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536,
    "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800,
    "driverVer": 13000, "cudaDeviceId": 0, "totalGlobalMem": 85024112640})";
}

const std::string h100 = described("NVIDIA H100 80GB HBM3", 90, 132, 232448);
const std::string a100 = described("NVIDIA A100-SXM4-80GB", 80, 108, 166912);

PackedShape shape_of(std::int64_t width, std::int64_t value_width) {
  return {.num_heads = 16,
          .num_kv_heads = 4,
          .width = width,
          .value_width = value_width,
          .scale = 0.125,
          .sequences = 8,
          .longest = 2048,
          .tokens = 8192};
}

TEST(CudnnPlans, AreThereForAHopper) {
  for (const std::int64_t width : {64, 80, 96, 128}) {
    EXPECT_EQ(why_no_plan(shape_of(width, width), false, h100, 90), "") << width;
    EXPECT_EQ(why_no_plan(shape_of(width, width), true, h100, 90), "") << width;
  }
  EXPECT_EQ(why_no_plan(shape_of(192, 128), false, h100, 90), "");
  EXPECT_EQ(why_no_plan(shape_of(192, 128), true, h100, 90), "");
}

// Limbeck's own kernels do what is refused: here sums in one order.
TEST(CudnnPlans, AreNoneForTheBackwardOnAnAmpere) {
  EXPECT_EQ(why_no_plan(shape_of(64, 64), false, a100, 80), "");
  EXPECT_THAT(why_no_plan(shape_of(64, 64), true, a100, 80), ::testing::HasSubstr("eterministic"));
}

TEST(CudnnPlans, AreRefusedForWhatIsNoAttention) {
  PackedShape shape = shape_of(64, 64);
  shape.num_kv_heads = 3;
  EXPECT_NE(why_no_plan(shape, false, h100, 90), "");
}

}  // namespace
}  // namespace limbeck::kernels
