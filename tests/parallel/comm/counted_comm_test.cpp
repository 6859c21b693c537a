#include "parallel/comm/counted_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "tests/support/thread_ranks.h"

namespace limbeck::parallel {
namespace {

using core::DType;
using core::Tensor;

// 4 ranks: a ring sends 2 B 3 / 4 of a sum, and a rank's part three times of what is gathered or scattered.
TEST(CountedComm, CountsWhatLeavesARank) {
  testing::run_ranks(4, [](testing::RankWorld& world) {
    const auto log = std::make_shared<TrafficLog>();
    const auto all = counted(world.comm, log);
    const auto pair = all->split(world.rank / 2, world.rank, "pair");
    const auto memory = core::Memory::cpu(1);
    const auto values = [&](std::int64_t n) { return Tensor::zeros(memory, DType::F32, {n}); };
    all->all_reduce(values(100), core::Reduce::Sum);
    all->all_reduce(values(100), core::Reduce::Max);
    all->all_gather(values(10), values(40));
    all->reduce_scatter(values(40), values(10));
    // Three rows go to the first of a pair, five to the second; each gets as many of both.
    const std::array<std::int64_t, 2> sent = {3, 5};
    const std::int64_t own = sent.at(static_cast<std::size_t>(world.rank % 2));
    const std::array<std::int64_t, 2> received = {own, own};
    pair->all_to_all_v(Tensor::zeros(memory, DType::F32, {8, 2}), sent, Tensor::zeros(memory, DType::F32, {2 * own, 2}),
                       received);
    ASSERT_EQ(log->entries().size(), 4U);
    const auto expect = [&](std::size_t i, const char* group, const char* operation, std::int64_t calls,
                            std::int64_t bytes) {
      const ExchangeCount& t = log->entries()[i];
      EXPECT_EQ(t.group, group);
      EXPECT_EQ(t.operation, operation);
      EXPECT_EQ(t.calls, calls) << operation;
      EXPECT_EQ(t.bytes, bytes) << operation;
    };
    expect(0, "world", "all_reduce", 2, 2 * 600);
    expect(1, "world", "all_gather", 1, 120);
    expect(2, "world", "reduce_scatter", 1, 120);
    expect(3, "pair", "all_to_all", 1, world.rank % 2 == 0 ? 5 * 8 : 3 * 8);  // what stays is not sent
    const int first = world.rank / 2 * 2;
    EXPECT_THAT(log->entries()[3].ranks, ::testing::ElementsAre(first, first + 1));
    log->forget();
    EXPECT_TRUE(log->entries().empty());
  });
}

TEST(CountedComm, OfOneRankNothingLeaves) {
  testing::run_ranks(1, [](testing::RankWorld& world) {
    const auto log = std::make_shared<TrafficLog>();
    counted(world.comm, log)->all_reduce(Tensor::zeros(core::Memory::cpu(1), DType::F32, {4}), core::Reduce::Sum);
    EXPECT_TRUE(log->entries().empty());
  });
}

}  // namespace
}  // namespace limbeck::parallel
