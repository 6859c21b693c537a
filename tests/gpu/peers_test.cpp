// Ranks whose peers are late or go while collectives of theirs are queued on GPUs: nobody waits for ever, and one line
// says what was waited for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/gpu/peers.h"

namespace limbeck {
namespace {

using core::DType;
using core::Reduce;
using core::Tensor;
using ::testing::AllOf;
using ::testing::Each;
using testing::errors_of;
using testing::GpuGroup;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace std::chrono_literals;

TEST(GpuPeers, OneThatIsLateIsNamed) {
  const auto errors = errors_of(3, 200ms, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    group.comm->note_step(42);
    group.comm->all_reduce(group.numbers(4), Reduce::Sum);
    const Tensor x = group.numbers(9);
    if (world.rank == 2) std::this_thread::sleep_for(600ms);
    group.comm->all_reduce(x, Reduce::Max);
    core::host_values<float>(x);
  });
  EXPECT_THAT(errors, Each(AllOf(HasSubstr("all_reduce(max) of 9 float32 in group world at step 42: no end after 0.2 s "
                                           "(parallel.deadline_s); rank 2 has not come: it is at step 42, its last "
                                           "operation was all_reduce(sum) of 4 float32 in group world"),
                                 Not(HasSubstr("rank 0 has")), Not(HasSubstr("rank 1 has")))));
}

// Rank 0 waits for rank 1, which waits in another group for rank 3.
TEST(GpuPeers, WhoHoldsUpTheOthersIsNamed) {
  const auto errors = errors_of(4, 200ms, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const auto column = group.comm->split(world.rank / 2, world.rank, "column");
    const auto row = group.comm->split(world.rank % 2, world.rank, "row");
    const Tensor x = group.numbers(4);
    if (world.rank == 1) row->all_reduce(x, Reduce::Sum);
    if (world.rank < 2) column->all_reduce(x, Reduce::Sum);
    if (world.rank >= 2) std::this_thread::sleep_for(500ms);
    if (world.rank >= 2) group.comm->barrier();
    core::host_values<float>(x);
  });
  EXPECT_THAT(errors, Each(AllOf(HasSubstr("rank 3 has not come"), Not(HasSubstr("rank 1 has not come")))));
}

// Between the ranks' agreement on an id and the start of one of them.
TEST(GpuPeers, OneThatDoesNotComeToTheStartIsNamed) {
  const auto errors = errors_of(2, 200ms, [](testing::RankWorld& world) {
    if (world.rank == 0) {
      const GpuGroup group(world);
      return;
    }
    const auto memory = core::Memory::cpu(1);
    for (const std::int64_t bytes : {96, 128}) {  // where it is, and the id
      const Tensor mine = Tensor::zeros(memory, DType::U8, {bytes}),
                   all = Tensor::zeros(memory, DType::U8, {2 * bytes});
      world.comm->all_gather(mine, all);
    }
    std::this_thread::sleep_for(500ms);
    world.comm->barrier();
  });
  EXPECT_THAT(errors, Each(AllOf(HasSubstr("the start of NCCL in group world at step 0: no end after 0.2 s"),
                                 HasSubstr("rank 1 has not come"))));
}

TEST(GpuPeers, ThoseOfOneThatThrowsInAStepThrowItsError) {
  for (const testing::StepSettings& settings :
       {testing::StepSettings{"tp2", 2}, testing::StepSettings{"ep2", 2}, testing::StepSettings{"dp2ep2", 4},
        testing::StepSettings{.layout = "pp2", .ranks = 2, .matches = true}}) {
    const auto errors =
        testing::errors_of_steps(settings, [](testing::GoldenSteps&) { throw core::Error("it went away"); });
    EXPECT_EQ(errors.back(), "it went away");
    for (std::size_t r = 0; r + 1 < errors.size(); ++r) EXPECT_EQ(errors[r], "peer: it went away") << settings.layout;
  }
}

}  // namespace
}  // namespace limbeck
