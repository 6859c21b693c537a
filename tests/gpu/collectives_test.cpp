// Collectives over tensors on GPUs: what the host's give.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "device_groups.h"
#include "tests/gpu/gpus.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Reduce;
using core::Tensor;
using ::testing::ElementsAreArray;

/// f(group over GPUs, memory) on every rank.
void on_gpus(int ranks, const std::function<void(parallel::WorldComm&, const core::MemoryPtr&)>& f) {
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    const core::MemoryPtr memory = testing::gpu_memory(world.rank);
    const auto groups = parallel::device_groups(world.comm, memory);
    f(*groups, memory);
  });
}

/// n small whole numbers that differ by rank: their sums are exact in every type.
Tensor numbers(const core::MemoryPtr& memory, DType dtype, std::int64_t n, int rank) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(static_cast<double>((i * 3 + rank * 5) % 17 - 8));
  const Tensor wide = Tensor::from<double>(memory, {n}, values);
  return dtype == DType::F64 ? wide : wide.to(dtype);
}

std::vector<double> values_of(const Tensor& t) {
  return core::host_values<double>(t.dtype() == DType::F64 ? t : t.to(DType::F64));
}

TEST(GpuCollectives, ReduceAsTheHostDoes) {
  for (const int ranks : {2, 4})
    on_gpus(ranks, [](parallel::WorldComm& group, const core::MemoryPtr& memory) {
      for (const DType dtype : {DType::F32, DType::F64, DType::BF16})
        for (const Reduce reduce : {Reduce::Sum, Reduce::Max})
          for (const std::int64_t n : {1, 7, 300}) {
            const Tensor x = numbers(memory, dtype, n, group.rank()), y = x.in(memory->host()).clone();
            group.all_reduce(x, reduce);
            group.all_reduce(y, reduce);  // the host's
            EXPECT_EQ(values_of(x), values_of(y));
          }
    });
}

TEST(GpuCollectives, GatherScatterAndExchangeRows) {
  on_gpus(4, [](parallel::WorldComm& group, const core::MemoryPtr& memory) {
    const int size = group.size(), me = group.rank();
    const Tensor part = numbers(memory, DType::F32, 6, me), all = Tensor::empty(memory, DType::F32, {size * 6});
    group.all_gather(part, all);
    std::vector<double> expected;
    for (int r = 0; r < size; ++r)
      for (const double x : values_of(numbers(memory, DType::F32, 6, r))) expected.push_back(x);
    EXPECT_THAT(values_of(all), ElementsAreArray(expected));

    const Tensor whole = numbers(memory, DType::F32, size * 3, me), mine = Tensor::empty(memory, DType::F32, {3});
    group.reduce_scatter(whole, mine);
    const Tensor sum = whole.clone();
    group.all_reduce(sum, Reduce::Sum);
    EXPECT_EQ(values_of(mine), values_of(sum.rows(me * 3, 3)));

    // Rank s sends s * r rows to rank r.
    std::vector<std::int64_t> sent, received;
    std::vector<float> rows;
    for (int r = 0; r < size; ++r) {
      sent.push_back(me * r);
      received.push_back(me * r);
      for (int i = 0; i < me * r; ++i) rows.insert(rows.end(), {static_cast<float>(me), static_cast<float>(i)});
    }
    const auto n = static_cast<std::int64_t>(rows.size() / 2);
    const Tensor send = Tensor::from<float>(memory, {n, 2}, rows), receive = Tensor::empty(memory, DType::F32, {n, 2});
    group.all_to_all_v(send, sent, receive, received);
    std::vector<float> came;
    for (int s = 0; s < size; ++s)
      for (int i = 0; i < s * me; ++i) came.insert(came.end(), {static_cast<float>(s), static_cast<float>(i)});
    EXPECT_THAT(core::host_values<float>(receive), ElementsAreArray(came));
  });
}

// Kernels queued before see the old values, those behind wait() the sum; the tensors may be forgotten meanwhile.
TEST(GpuCollectives, AreOrderedAmongKernels) {
  on_gpus(2, [](parallel::WorldComm& group, const core::MemoryPtr& memory) {
    const Tensor x = numbers(memory, DType::F32, 64, group.rank());
    const std::vector<double> before = values_of(x);
    for (int step = 0; step < 5; ++step) {
      Tensor y = x.clone();
      core::CommHandle handle = group.all_reduce_async(y, Reduce::Sum);
      const Tensor other = x.clone();  // goes on beside it
      handle.wait();
      EXPECT_NE(values_of(y), before);
      EXPECT_EQ(values_of(other), before);
    }
    group.all_reduce_async(x.clone(), Reduce::Sum);  // nobody waits
    EXPECT_EQ(values_of(x.clone()), before);
  });
}

TEST(GpuCollectives, GroupsAreSplit) {
  on_gpus(4, [](parallel::WorldComm& group, const core::MemoryPtr& memory) {
    const auto pair = group.split(group.rank() / 2, group.rank(), "pair");
    const Tensor x = Tensor::from<float>(memory, {1}, {{static_cast<float>(1 << group.rank())}});
    pair->all_reduce(x, Reduce::Sum);
    EXPECT_EQ(core::host_value(x), group.rank() < 2 ? 3 : 12);
  });
}

}  // namespace
}  // namespace limbeck
