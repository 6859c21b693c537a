#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation {
namespace {

using samples::Fault;
using ::testing::HasSubstr;

std::vector<float> numbers(std::size_t n) {
  std::mt19937 random(3);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random() % 17) - 8;
  return x;
}

TEST(EmulatedKernel, ThreadsOfAllBlocksRun) {
  for (const std::int64_t n : {1, 255, 256, 257, 5000}) {
    const auto x = numbers(n);
    const OnDevice<float> on_device(x), result(n);
    samples::affine(on_stream(nullptr), on_device.data(), result.data(), n);
    const auto y = result.read();
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], 2 * x[i] + 1) << i;
  }
}

TEST(EmulatedKernel, PowersOfTwo) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {0, 1, -1, 10, -126, -127, -200, 128, -infinity, infinity, 0.5F};
  const OnDevice<float> on_device(x), result(x.size());
  samples::powers_of_2(on_stream(nullptr), on_device.data(), result.data(), static_cast<int>(x.size()));
  auto y = result.read();
  EXPECT_NEAR(y.back(), std::sqrt(2.0), 3e-7);
  y.pop_back();
  EXPECT_THAT(y, ::testing::ElementsAre(1, 2, 0.5F, 1024, 0x1p-126F, 0, 0, infinity, 0, infinity));
}

std::vector<float> row_sums(const std::vector<float>& x, int rows, int width, bool with_barriers) {
  const OnDevice<float> on_device(x), sums(rows);
  samples::row_sums(on_stream(nullptr), on_device.data(), sums.data(), rows, width, with_barriers);
  return sums.read();
}

std::vector<float> expected_row_sums(const std::vector<float>& x, int rows, int width, int from) {
  std::vector<float> sums(rows);
  for (int r = 0; r < rows; ++r)
    sums[r] = std::accumulate(x.begin() + r * width + from, x.begin() + (r + 1) * width, 0.0F);
  return sums;
}

TEST(EmulatedKernel, BarriersOrderABlock) {
  const auto x = numbers(7 * 1000);
  for (std::uint64_t s = 1; s <= 20; ++s) {
    set_seed(s);
    EXPECT_EQ(row_sums(x, 7, 1000, true), expected_row_sums(x, 7, 1000, 0));
  }
}

TEST(EmulatedKernel, AMissingBarrierIsSeenInSomeOrder) {
  const auto x = numbers(7 * 1000);
  int wrong = 0;
  for (std::uint64_t s = 1; s <= 20; ++s) {
    set_seed(s);
    wrong += row_sums(x, 7, 1000, false) != expected_row_sums(x, 7, 1000, 0) ? 1 : 0;
  }
  EXPECT_GE(wrong, 10);
}

TEST(EmulatedKernel, AsynchronousCopiesComeWhenAwaited) {
  const auto x = numbers(5 * 516);
  const OnDevice<float> on_device(x), sums(5);
  samples::copied_row_sums(on_stream(nullptr), on_device.data(), sums.data(), 5, 516);
  EXPECT_EQ(sums.read(), expected_row_sums(x, 5, 516, 4));  // the first four are zeros
  samples::copied_row_sums(on_stream(nullptr), on_device.data(), sums.data(), 5, 516, /*wait=*/false);
  for (const float sum : sums.read()) EXPECT_TRUE(std::isnan(sum));
}

TEST(EmulatedKernel, AtomicsCount) {
  std::vector<int> x(3001), expected(5);
  for (int i = 0; i < 3001; ++i) ++expected[x[i] = i * i % 5];
  const OnDevice<int> on_device(x), counts(std::vector<int>(5));
  samples::histogram(on_stream(nullptr), on_device.data(), counts.data(), 3001);
  EXPECT_EQ(counts.read(), expected);
}

TEST(EmulatedKernel, WarpFunctions) {
  const OnDevice<int> results(32 * 14);
  samples::warp_functions(on_stream(nullptr), results.data());
  const auto r = results.read();
  for (int lane = 0; lane < 32; ++lane) {
    const int* of = r.data() + lane * 14;
    EXPECT_EQ(of[0], 5);
    EXPECT_EQ(of[1], lane / 8 * 8 + 5);
    EXPECT_EQ(of[2], lane ^ 3);
    EXPECT_EQ(of[3], lane < 2 ? lane : lane - 2);
    EXPECT_EQ(of[4], lane % 16 >= 14 ? lane : lane + 2);
    EXPECT_EQ(static_cast<unsigned>(of[5]), 0x49249249U);
    EXPECT_EQ(of[6], 0);
    EXPECT_EQ(of[7], 1);
    EXPECT_EQ(of[8], 31 * 32 / 2);
    EXPECT_EQ(of[9], 0);
    EXPECT_EQ(static_cast<unsigned>(of[10]), 0xfU << lane / 4 * 4);
    EXPECT_EQ(of[11], 7);
    EXPECT_EQ(of[12], 9);
    EXPECT_EQ(of[13], lane < 16 ? 3 : -1);
  }
}

// The fragments of PTX, by a product that knows nothing of them.
TEST(EmulatedKernel, TensorCoreProduct) {
  std::mt19937 random(5);
  const auto draw = [&] { return static_cast<float>(static_cast<int>(random() % 33) - 16) / 8; };  // exact in bfloat16
  const auto bits = [](float x) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16); };
  for (const bool transposed : {false, true}) {
    std::vector<float> a(16 * 16), b(16 * 8), c(16 * 8);
    std::vector<std::uint16_t> a_bits(a.size()), b_bits(b.size());
    for (float& v : a) v = draw();
    for (float& v : b) v = draw();
    for (float& v : c) v = draw();
    for (int i = 0; i < 256; ++i) a_bits[i] = bits(a[i]);
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) b_bits[transposed ? j * 16 + k : k * 8 + j] = bits(b[k * 8 + j]);
    std::vector<float> expected = c;
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j)
        for (int k = 0; k < 16; ++k) expected[i * 8 + j] += a[i * 16 + k] * b[k * 8 + j];
    const OnDevice<std::uint16_t> a_on_device(a_bits), b_on_device(b_bits);
    const OnDevice<float> c_on_device(c);
    samples::tile_product(on_stream(nullptr), a_on_device.data(), b_on_device.data(), c_on_device.data(), transposed);
    EXPECT_EQ(c_on_device.read(), expected);
  }
}

TEST(EmulatedKernel, LaunchesThatCudaRefusesNameTheKernel) {
  const auto message = [](unsigned blocks, unsigned threads, std::size_t shared_bytes) -> std::string {
    try {
      samples::launch_nothing(on_stream(nullptr), blocks, threads, shared_bytes);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message(3, 1024, 163 << 10), "");
  EXPECT_EQ(message(0, 32, 0), "launch of nothing_kernel: grid [0,1,1], expected 1 to [2147483647,65535,65535]");
  EXPECT_EQ(message(1, 1056, 0),
            "launch of nothing_kernel: block [1056,1,1], expected 1 to [1024,1024,64] and at most 1024 threads");
  EXPECT_EQ(message(1, 32, 300000), "launch of nothing_kernel: 300000 bytes of shared memory, expected at most 166912");
}

struct FaultCase {
  Fault fault;
  const char* message;
};

class BrokenRule : public ::testing::TestWithParam<FaultCase> {};

TEST_P(BrokenRule, EndsWithALineThatNamesIt) {
  GTEST_FLAG_SET(death_test_style, "fast");
  const OnDevice<float> memory(1024);
  const auto fall = [&] {
    samples::break_a_rule(on_stream(nullptr), GetParam().fault, memory.data());
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(fall(), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    EmulatedKernel, BrokenRule,
    ::testing::Values(
        FaultCase{Fault::divergent_barrier,
                  "cuda emulation: divergent_barrier_kernel, block .0,0,0., thread .[0-9]+,0,0.: __syncthreads of "
                  "faults.cu:[0-9]+, while other threads of the block are at the barrier of faults.cu:"},
        FaultCase{Fault::half_a_warp_at_a_barrier,
                  "half_a_warp_at_a_barrier_kernel.*wait for ever.*16 in __shfl_sync of faults.cu:[0-9]+, 16 in "
                  "__syncthreads"},
        FaultCase{Fault::divergent_shuffle,
                  "divergent_shuffle_kernel.*while other lanes of the warp are in __shfl_sync"},
        FaultCase{Fault::lane_outside_mask,
                  "lane_outside_mask_kernel, block .0,0,0., thread .[0-9]+,0,0.: __shfl_sync of faults.cu:[0-9]+: lane "
                  "[0-9]+ is "
                  "not in its mask 0x0000ffff"},
        FaultCase{Fault::read_outside_mask, "read_outside_mask_kernel.*asks lane 20, which takes no part"},
        FaultCase{
            Fault::beyond_static_shared,
            "beyond_static_shared_kernel, block .0,0,0., thread .31,0,0.: an index beyond its array.*faults.cu:[0-9]+"},
        FaultCase{Fault::beyond_dynamic_shared,
                  "beyond_dynamic_shared_kernel, block .0,0,0., thread .31,0,0.: an access to .*faults.cu:[0-9]+"},
        FaultCase{Fault::misaligned_vector, "misaligned_vector_kernel.*misaligned access.*faults.cu:[0-9]+"},
        FaultCase{Fault::misaligned_copy, "misaligned_copy_kernel.*an asynchronous copy at faults.cu:[0-9]+"},
        FaultCase{Fault::endless_recursion, "endless_recursion_kernel.*its stack of 131072 bytes has ended"}));

}  // namespace
}  // namespace limbeck::emulation
