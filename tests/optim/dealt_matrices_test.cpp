#include "optim/dealt_matrices.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>

#include "tests/optim/parameters.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::optim {
namespace {

using core::Memory;
using core::Shape;
using testing::make_parameter;

// Whole matrices of [6,4], [3,5], [7,2], a stack of two [2,4,3] and [1,9], of which each rank has rows; each is changed
// once, by one rank, and each rank gets its rows of it back.
TEST(DealtMatrices, AreEachChangedOnceByOneRankThatHasAllOfThem) {
  const std::vector<Shape> shapes{{6, 4}, {3, 5}, {7, 2}, {2, 4, 3}, {1, 9}};
  for (const int num_ranks : {3, 4}) {
    std::atomic<int> changes = 0;
    std::atomic<int> most = 0;
    testing::run_ranks(num_ranks, [&](testing::RankWorld& world) {
      const auto memory = Memory::cpu(1);
      std::vector<std::unique_ptr<core::Parameter>> parameters;
      std::vector<Fragment> fragments;
      for (const Shape& shape : shapes) {
        std::vector<double> values(static_cast<std::size_t>(shape.numel()));
        std::iota(values.begin(), values.end(), 0.0);
        parameters.push_back(make_parameter<double>(memory, "layers.0.w", shape, values));
        EXPECT_TRUE(DealtMatrices::is_dealt(*parameters.back(), num_ranks));
        fragments.push_back(fragment_of(*parameters.back(), {.ranks = world.comm.get()}));
      }
      DealtMatrices dealt(*world.comm, fragments, std::vector<double>(static_cast<std::size_t>(num_ranks), 0.0));
      dealt.begin(memory, core::DType::F64);
      for (std::size_t i = 0; i < fragments.size(); ++i)
        dealt.rows_of(i).copy_from(fragments[i].value().reshape({fragments[i].length}));
      int own = 0;
      dealt.change([&](std::size_t i, core::Tensor& matrix) {
        ++changes;
        ++own;
        const std::int64_t first =
            static_cast<std::int64_t>(matrix.host<double>()[0]);  // 0, or the second's of a stack
        EXPECT_EQ(first % matrix.numel(), 0);
        for (std::int64_t k = 0; k < matrix.numel(); ++k) {
          EXPECT_EQ(matrix.host<double>()[k], static_cast<double>(first + k)) << i;
          matrix.mutable_host<double>()[k] = -static_cast<double>(first + k);
        }
      });
      for (int seen = most; own > seen && !most.compare_exchange_weak(seen, own);) {
      }
      for (std::size_t i = 0; i < fragments.size(); ++i)
        for (std::int64_t k = 0; k < fragments[i].length; ++k)
          EXPECT_EQ(dealt.rows_of(i).host<double>()[k], -static_cast<double>(fragments[i].offset + k)) << i;
    });
    EXPECT_EQ(changes, 6);
    EXPECT_LE(most, 3);
  }
}

TEST(Fragment, IsABoxOfTheParameterWhereItCanBe) {
  const auto memory = Memory::cpu(1);
  auto p = make_parameter<double>(memory, "w", {3, 4, 5}, std::vector<double>(60));
  p->global_shape = {6, 4, 5};
  p->placement = {{"ep", core::AxisRole::Sharded, 0, 3, 3}};
  const auto entry = [&](std::int64_t offset, std::int64_t length) {
    const Fragment f{.parameter = p.get(), .offset = offset, .length = length};
    return f.entry(f.value());
  };
  const auto expect_box = [&](const core::StateEntry& e, const std::vector<std::int64_t>& offset, const Shape& shape) {
    EXPECT_EQ(e.offset, offset);
    EXPECT_EQ(e.tensor.shape(), shape);
    EXPECT_EQ(e.global_shape, (Shape{6, 4, 5}));
  };
  expect_box(entry(0, 60), {3, 0, 0}, {3, 4, 5});
  expect_box(entry(20, 40), {4, 0, 0}, {2, 4, 5});
  expect_box(entry(25, 10), {4, 1, 0}, {1, 2, 5});
  expect_box(entry(47, 2), {5, 1, 2}, {1, 1, 2});
  EXPECT_NE(testing::error_of([&] { entry(15, 10); }).find("expected a box of the [3,4,5]"), std::string::npos);
  EXPECT_NE(testing::error_of([&] { entry(3, 5); }).find("w is 5 elements at 3"), std::string::npos);
}

}  // namespace
}  // namespace limbeck::optim
