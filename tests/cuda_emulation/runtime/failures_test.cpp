#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr int n = 1000;

std::vector<float> affine_of_ones() {
  const OnDevice<float> x(std::vector<float>(n, 1)), y(n);
  samples::affine(on_stream(nullptr), x.data(), y.data(), n);
  return y.read();
}

TEST(EmulatedFailures, EachCallCanBeMadeToFailAndIsNamed) {
  std::vector<std::string> names;
  const std::uint64_t before = num_calls();
  affine_of_ones();
  const std::uint64_t calls = num_calls() - before;
  for (std::uint64_t i = 0; i + 2 < calls; ++i) {  // the last two give back what was taken
    fail_call_after(i);
    EXPECT_THROW(affine_of_ones(), std::runtime_error) << failed_call();
    names.push_back(failed_call());
    cudaGetLastError();
  }
  EXPECT_THAT(names, ::testing::IsSupersetOf({"cudaMalloc", "cudaMemcpy", "kernel<<<>>>", "cudaDeviceSynchronize"}));
  EXPECT_THAT(affine_of_ones(), Each(3.0F));
}

TEST(EmulatedFailures, AnErrorThatIsNotCheckedIsNamed) {
  EXPECT_THAT(unreported_failures([] { affine_of_ones(); }), ::testing::IsEmpty());
  const OnDevice<float> x(n);
  EXPECT_THAT(unreported_failures([&] {
                check(cudaMemset(x.data(), 0, 4));
                cudaMemsetAsync(x.data(), 0, 4, nullptr);  // not checked
              }),
              ElementsAre("cudaMemsetAsync"));
}

}  // namespace
}  // namespace limbeck::emulation
