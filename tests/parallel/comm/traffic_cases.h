// What is counted of a rank's exchanges, in any world (comm_cases.h). Bytes are counted by hand from the ranks'
// numbers.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "parallel/comm/engine.h"
#include "tests/parallel/comm/comm_cases.h"

namespace limbeck::testing {

using parallel::CommAxis;
using parallel::Traffic;

/// Nothing of any axis but these.
inline void expect_only(const Traffic& traffic, const std::vector<CommAxis>& axes) {
  for (std::size_t i = 0; i < parallel::comm_axis_names.size(); ++i) {
    const auto axis = static_cast<CommAxis>(i);
    EXPECT_TRUE(std::ranges::count(axes, axis) > 0 || !traffic.has(axis)) << parallel::comm_axis_names[i];
    EXPECT_EQ(traffic.at(axis, Traffic::BytesAcross), 0) << "all ranks are on one node";
  }
}

inline void counts_bytes_sent(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const auto group = world.split(0, world.rank(), "tp");
  const std::int64_t size = group->size(), rank = group->rank(), others = size - 1;
  group->engine().tally().take();
  const auto sent = [&] {
    const Traffic traffic = group->engine().tally().take();
    expect_only(traffic, {CommAxis::Tp});
    return traffic.at(CommAxis::Tp, Traffic::BytesInside);
  };

  // 240,000 bytes; 400,000 of them, and more, go through memory that ranks share: each gives away all slices but its
  // own, and the sums of its own to all others.
  for (const std::int64_t n : {60'000, 600'000}) {
    group->all_reduce(Tensor::zeros(memory, DType::F32, {n}), Reduce::Sum);
    EXPECT_EQ(sent(), 2 * others * 4 * n / size) << n;
  }
  const Tensor part = Tensor::zeros(memory, DType::F64, {100}), all = Tensor::zeros(memory, DType::F64, {100 * size});
  group->all_gather(part, all);
  EXPECT_EQ(sent(), 800 * others);
  group->reduce_scatter(all, part);
  EXPECT_EQ(sent(), 800 * others);

  std::vector<std::int64_t> rows;
  std::int64_t expected = 0, total = 0;
  for (std::int64_t s = 0; s < size; ++s) {
    rows.push_back(rank + s + 1);
    total += rows.back();
    if (s != rank) expected += 24 * rows.back();
  }
  group->all_to_all_v(Tensor::zeros(memory, DType::F64, {total, 3}), rows,
                      Tensor::zeros(memory, DType::F64, {total, 3}), rows);
  EXPECT_EQ(sent(), expected);

  if (size > 1 && rank == 0) group->send(Tensor::zeros(memory, DType::I64, {7}), group->size() - 1);
  if (size > 1 && rank == size - 1) group->receive(Tensor::zeros(memory, DType::I64, {7}), 0);
  EXPECT_EQ(sent(), size > 1 && rank == 0 ? 56 : 0);
  group->barrier();
  EXPECT_EQ(sent(), 0);
}

inline void counts_waits_by_axis(WorldComm& world) {
  using namespace std::chrono_literals;
  if (world.size() == 1) return;
  const auto memory = Memory::cpu(1);
  const auto tp = world.split(0, world.rank(), "tp"), dp = world.split(0, world.rank(), "dp gradients");
  parallel::CommTally& tally = world.engine().tally();
  const auto seconds = [](const Traffic& traffic, CommAxis axis) {
    return 1e-9 * static_cast<double>(traffic.at(axis, Traffic::WaitedNs));
  };
  const bool is_late = world.rank() == world.size() - 1;
  tp->barrier();
  tally.take();
  if (is_late) std::this_thread::sleep_for(300ms);
  tp->barrier();
  dp->all_reduce(filled<float>(memory, {1000}, world.rank()), Reduce::Sum);
  const Traffic one_is_late = tally.take();
  expect_only(one_is_late, {CommAxis::Tp, CommAxis::Dp});
  if (is_late)
    EXPECT_LT(seconds(one_is_late, CommAxis::Tp), 0.1);
  else
    EXPECT_GE(seconds(one_is_late, CommAxis::Tp), 0.2);
  EXPECT_LT(seconds(one_is_late, CommAxis::Dp), 0.1);

  // What is done beside other work is not waited for.
  CommHandle under_way = dp->all_reduce_async(filled<float>(memory, {1000}, world.rank()), Reduce::Sum);
  std::this_thread::sleep_for(300ms);
  under_way.wait();
  EXPECT_LT(seconds(tally.take(), CommAxis::Dp), 0.1);
}

inline std::vector<CommCase> traffic_cases() {
  return {{"counts_bytes_sent", counts_bytes_sent}, {"counts_waits_by_axis", counts_waits_by_axis}};
}

}  // namespace limbeck::testing
