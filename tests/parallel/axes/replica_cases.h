// What copies of experts must be on any world (tests/parallel/comm/comm_cases.h).
#pragma once

#include <algorithm>
#include <numeric>

#include "core/ops/replicas.h"
#include "core/slice.h"
#include "parallel/axes/replica_comm.h"
#include "tests/parallel/comm/comm_cases.h"

namespace limbeck::testing {

/// Entry i of expert e is 100 e + i. Every rank gets those that it asks for, and what it makes of them comes back to
/// their ranks as a sum, into a gradient that is there or not.
inline void replicas_case_of(WorldComm& world, std::int64_t num_experts) {
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_replica_comm({std::shared_ptr<void>(), &world});
  const core::Slice mine = core::slice_of(num_experts, world.rank(), world.size());
  const std::int64_t num_local = mine.count, width = 3;
  Tensor stack = Tensor::empty(memory, DType::F32, {num_local, 1, width});
  for (std::int64_t e = 0; e < num_local; ++e)
    for (std::int64_t i = 0; i < width; ++i)
      stack.mutable_data<float>()[e * width + i] = static_cast<float>(100 * (mine.first + e) + i);
  std::vector<std::int64_t> every_third, all(static_cast<std::size_t>(num_experts));
  std::iota(all.begin(), all.end(), 0);
  for (std::int64_t e = 0; e < num_experts; e += 3) every_third.push_back(e);
  for (const std::vector<std::int64_t>& experts : {std::vector<std::int64_t>(), {num_experts - 1}, every_third, all})
    for (const bool has_gradient : {false, true}) {
      core::Tape tape;
      const core::Var weights = core::leaf(stack);
      if (has_gradient) core::accumulate(weights.slot, filled<float>(memory, {num_local, 1, width}, 0));
      const core::Var copies = core::ReplicasUnderWay(tape, weights, *comm, experts, num_experts).finish();
      EXPECT_EQ(copies.shape(), core::Shape({std::ssize(experts), 1, width}));
      Tensor gradient = Tensor::empty(memory, DType::F32, copies.shape());
      for (std::int64_t r = 0; r < std::ssize(experts); ++r)
        for (std::int64_t i = 0; i < width; ++i) {
          const std::int64_t expert = experts[static_cast<std::size_t>(r)];
          EXPECT_EQ(copies.value.data<float>()[r * width + i], static_cast<float>(100 * expert + i));
          // A power of two for each rank: which of them were added is seen.
          gradient.mutable_data<float>()[r * width + i] = static_cast<float>((1 << world.rank()) * (expert + 1) + i);
        }
      core::accumulate(copies.slot, gradient);
      tape.run();
      const Tensor found = core::gradient(weights.slot, stack),
                   before = filled<float>(memory, {num_local, 1, width}, 0);
      for (std::int64_t e = 0; e < num_local; ++e)
        for (std::int64_t i = 0; i < width; ++i) {
          const std::int64_t expert = mine.first + e, at = e * width + i;
          const bool is_copied = std::ranges::find(experts, expert) != experts.end();
          const auto sum =
              static_cast<float>(is_copied ? ((1 << world.size()) - 1) * (expert + 1) + world.size() * i : 0);
          EXPECT_EQ(found.data<float>()[at], sum + (has_gradient ? before.data<float>()[at] : 0)) << expert;
        }
    }
  EXPECT_THROW(comm->start_gather(stack, std::vector<std::int64_t>{1, 0}, num_experts), core::Error);
  EXPECT_THROW(comm->start_gather(stack, std::vector<std::int64_t>{num_experts}, num_experts), core::Error);
  EXPECT_THROW(comm->start_gather(stack, {}, num_experts + world.size()), core::Error);  // of which more are here
}

/// As many on each rank, one more on the last, and fewer than ranks.
inline void replicas_case(WorldComm& world) {
  for (const std::int64_t num_experts : {2 * world.size(), world.size() + 1, world.size() - 1}) {
    SCOPED_TRACE(num_experts);
    if (num_experts > 0) replicas_case_of(world, num_experts);
  }
}

}  // namespace limbeck::testing
