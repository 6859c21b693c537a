#include "launch/run/gradient_dump.h"

#include <gtest/gtest.h>

#include "parallel/threads/thread_world.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

/// What is written of a step whose student is its teacher: KL is 0, or below by rounding.
data::Hdf5File dump_with_kl(const std::filesystem::path& file, double kl, bool has_teacher) {
  Rank rank(parallel::ThreadWorld(1).comm(0), "dp1", 1);
  RunConfig config;
  if (has_teacher) config.teacher.emplace();
  const data::TokenBatch samples{.num_sequences = 1,
                                 .sequence_length = 2,
                                 .tokens = {1, 2},
                                 .targets = {2, -1},
                                 .positions = {0, 1},
                                 .documents = {0, 0}};
  const optim::DistillationOptions objective{
      .ce_weight = 0.4, .temperature = 1.5, .divergence = kernels::Divergence::SkewKl, .mix = 0.2};
  GradientDump dump(rank, file, {}, config, objective, /*valid_vocabulary=*/3, samples, {}, {});
  StepResult result;
  result.head.tokens = 1;
  result.head.kl = kl;
  dump.write(result, {});
  return data::Hdf5File::open(file);
}

TEST(GradientDump, HasTheKlOfEveryTeacher) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(dump_with_kl(folder / "a.h5", 0, true).contains("/loss/kl"));
  EXPECT_TRUE(dump_with_kl(folder / "b.h5", -1e-9, true).contains("/loss/kl"));
  EXPECT_FALSE(dump_with_kl(folder / "c.h5", 0, false).contains("/loss/kl"));
}

// Not those of the config, from which they may move step by step.
TEST(GradientDump, HasTheNumbersOfTheStepsObjective) {
  const testing::TemporaryFolder folder;
  const data::Hdf5File dump = dump_with_kl(folder / "a.h5", 0, true);
  EXPECT_EQ(dump.attribute<double>("/", "cross_entropy_weight"), 0.4);
  EXPECT_EQ(dump.attribute<double>("/", "temperature"), 1.5);
  EXPECT_EQ(dump.attribute<std::int64_t>("/", "divergence"), static_cast<int>(kernels::Divergence::SkewKl));
  EXPECT_EQ(dump.attribute<double>("/", "mix"), 0.2);
}

TEST(GradientDump, HasEveryNumberOfTheModel) {
  const testing::TemporaryFolder folder;
  const nn::ModelConfig model;
  const data::Hdf5File dump = dump_with_kl(folder / "a.h5", 0, false);
  EXPECT_EQ(dump.attribute<std::int64_t>("/", "max_positions"), model.max_positions);
  EXPECT_EQ(dump.attribute<std::int64_t>("/", "num_experts"), model.moe.num_experts);
  EXPECT_EQ(dump.attribute<double>("/", "weight_scale"), model.moe.weight_scale);
  EXPECT_EQ(dump.attribute<double>("/", "rope_base"), model.rope_base);
  EXPECT_EQ(dump.attribute<std::int64_t>("/", "tied_head"), model.tied_head ? 1 : 0);
}

}  // namespace
}  // namespace limbeck::launch
