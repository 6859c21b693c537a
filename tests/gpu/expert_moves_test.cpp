// Experts that change ranks in the memory of GPUs: what is kept of them, and the steps behind it.
#include "parallel/axes/expert_moves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "device_groups.h"
#include "tests/gpu/gpus.h"
#include "tests/support/moved_experts.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/written_state.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using launch::ExpertPlacement;

// Of four experts of three numbers each, two a part: shares of two ranks, and the same on both.
TEST(GpuMoves, TakeElementsOfEveryType) {
  const std::vector<std::int64_t> from = {3, 1, 0, 2};
  testing::run_ranks(4, [&](testing::RankWorld& world) {
    const core::MemoryPtr memory = testing::gpu_memory(world.rank);
    const parallel::Mesh mesh(parallel::device_groups(world.comm, memory), parallel::parse_layout("dp2ep2"));
    const parallel::ExpertMoves of_wholes(mesh, /*sharers=*/1), of_shares(mesh, /*sharers=*/2);
    const std::int64_t part = mesh.ep().rank, share = mesh.edp().rank();
    for (const DType dtype : {DType::F32, DType::F64, DType::BF16, DType::U8}) {
      SCOPED_TRACE(fmt::format("{}", dtype));
      // Number i of expert e is 10 e + i.
      const auto stack_of = [&](const std::vector<std::int64_t>& experts) {
        std::vector<std::uint8_t> numbers;
        for (const std::int64_t e : experts)
          for (std::int64_t i = 0; i < 3; ++i) numbers.push_back(static_cast<std::uint8_t>(10 * e + i));
        const Tensor bytes = Tensor::from<std::uint8_t>(core::Memory::cpu(1), {std::ssize(experts), 3, 1}, numbers);
        if (dtype == DType::U8) return bytes;
        const std::vector<double> wide(numbers.begin(), numbers.end());
        const Tensor values = Tensor::from<double>(core::Memory::cpu(1), bytes.shape(), wide);
        return dtype == DType::F64 ? values : values.to(dtype);
      };
      const auto bits_of = [](const Tensor& t) {
        const Tensor here = t.in(t.memory()->host());
        return std::vector<std::byte>(here.raw(), here.raw() + here.bytes());
      };
      const auto experts_of = [](std::int64_t first, std::int64_t count, const std::vector<std::int64_t>& order) {
        return std::vector<std::int64_t>(order.begin() + first, order.begin() + first + count);
      };
      const std::vector<std::int64_t> before = {0, 1, 2, 3};
      const Tensor whole = stack_of(experts_of(2 * part, 2, before)).in(memory);
      of_wholes.move(whole, {2, 3, 1}, /*is_dealt=*/false, from);
      EXPECT_EQ(bits_of(whole), bits_of(stack_of(experts_of(2 * part, 2, from))));
      const Tensor dealt = stack_of(experts_of(2 * part + share, 1, before)).in(memory);
      of_shares.move(dealt, {2, 3, 1}, /*is_dealt=*/true, from);
      EXPECT_EQ(bits_of(dealt), bits_of(stack_of(experts_of(2 * part + share, 1, from))));
    }
  });
}

/// Losses of two steps; what there is before and behind a move between them is added, where one is to be.
std::vector<double> losses_of(const testing::StepSettings& s, bool on_gpus, testing::WrittenState* before = nullptr,
                              testing::WrittenState* behind = nullptr) {
  std::vector<double> losses;
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, on_gpus ? testing::gpu_memory(world.rank) : core::Memory::cpu(1));
    const double first = steps.run().result.loss();
    if (before != nullptr) {
      ExpertPlacement placement(steps.rank(), steps.student(), steps.fragments(), steps.optimizer(), steps.values());
      before->add(testing::kept_of(steps));
      placement.go_on_with(testing::other_orders(1), {}, "here");
      behind->add(testing::kept_of(steps));
    }
    const double second = steps.run().result.loss();
    if (world.rank == 0) losses = {first, second};
  });
  return losses;
}

TEST(GpuMoves, LeaveStepsThoseOfTheCpu) {
  const testing::StepSettings s{.layout = "ep2", .ranks = 2, .eight_bit = true, .has_expert_biases = true};
  testing::WrittenState before, behind;
  const std::vector<double> gpu = losses_of(s, true, &before, &behind), cpu = losses_of(s, false);
  for (std::size_t step = 0; step < cpu.size(); ++step)
    EXPECT_NEAR(gpu[step], cpu[step], 1e-5 * cpu[step]) << "step " << step;
  const int num_stacks = testing::expect_moved(testing::values_of(before.whole()), testing::values_of(behind.whole()),
                                               testing::other_orders(1));
  EXPECT_EQ(num_stacks, 2 * 6 * 3);  // values and two moments of each
}

}  // namespace
}  // namespace limbeck
