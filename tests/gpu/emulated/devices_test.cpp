// Which device a config's words choose.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/run/devices.h"
#include "tests/cuda_emulation/emulation.h"

namespace limbeck::launch {
namespace {

TEST(GpuDevices, AutoTakesAGpuWhereThereIsOne) {
  EXPECT_EQ(device_names(), "cpu, 8 GPUs (CUDA)");
  EXPECT_FALSE(memory_of_rank(DeviceKind::Auto, 1)->is_host());
  EXPECT_FALSE(memory_of_rank(DeviceKind::Cuda, 1)->is_host());
  EXPECT_TRUE(memory_of_rank(DeviceKind::Cpu, 1)->is_host());
}

TEST(GpuDevices, WithoutOneTheCpuServesOrTheErrorSaysWhy) {
  emulation::set_num_devices(0);
  EXPECT_EQ(device_names(), "cpu; CUDA, but no GPU: no CUDA-capable device is detected");
  EXPECT_TRUE(memory_of_rank(DeviceKind::Auto, 1)->is_host());
  try {
    memory_of_rank(DeviceKind::Cuda, 1);
    ADD_FAILURE() << "no GPU was taken for one";
  } catch (const core::Error& error) {
    EXPECT_STREQ(error.what(), "train.device is CUDA, but no GPU can be used here: no CUDA-capable device is detected");
  }
  emulation::set_num_devices(8);
}

}  // namespace
}  // namespace limbeck::launch
