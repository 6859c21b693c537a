// What kernels promise of their threads.
#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/build_info.h"
#include "kernels/cpu.h"
#include "kernels/grouped_matmul.h"
#include "kernels/normal.h"

namespace limbeck::kernels {
namespace {

// oneDNN refuses a product of negative extents before it reads a value.
TEST(Threads, WhatOneThrowsReachesTheCaller) {
  if (matrix_product() == "plain loop") GTEST_SKIP() << "the plain product refuses nothing";
  const std::vector<float> values(64);
  std::vector<float> out(64);
  const std::vector<std::int64_t> offsets{0, 20, 40, 60, 80};  // too many for products of few rows
  for (const int threads : {1, 4}) {
    const Cpu cpu = make_cpu(threads);
    EXPECT_THROW(grouped_matmul(cpu, 4, -1, 2, offsets.data(), values.data(), values.data(), 0.F, out.data()),
                 std::runtime_error);
  }
}

TEST(Threads, AnyNumberGivesTheSameRandomNumbers) {
  constexpr std::int64_t rows = 37, width = 100;
  const PhiloxStream stream{{1, 2}, 3};
  std::vector<std::int64_t> row_index;
  for (std::int64_t r = 0; r < rows; ++r) row_index.push_back(1000 * r + 7);
  for (const int threads : {1, 2, 4}) {
    std::vector<float> y(rows * width);
    normal_rows(make_cpu(threads), stream, 0.5, row_index.data(), y.data(), rows, width);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c)
        ASSERT_EQ(y[r * width + c],
                  static_cast<float>(0.5 * stream.normal(static_cast<std::uint64_t>(1000 * r + 7 + c))));
  }
}

}  // namespace
}  // namespace limbeck::kernels
