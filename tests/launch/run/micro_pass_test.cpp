#include "launch/run/micro_pass.h"

#include <gtest/gtest.h>

#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

// As ZERO_BUBBLE has it: also those of layers behind experts, whose exchange runs none of them while it waits.
TEST(MicroPass, WeightsThatAreLeftHaveNoGradientBeforeTheirTurn) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    Rank rank(world.comm, "ep2", 1);
    const testing::GoldenModel golden("moe.h5");
    nn::Transformer model(golden.config(), rank.sharded(core::DType::F64));
    model.load(golden.parameters());
    const optim::LanguageModelling objective;
    const StepModels models{model, nullptr, objective};
    const StepInput input = read_input(rank.memory(), rank, golden.samples(), 1, models);
    const StepOptions options;
    StepSums sums(rank, model);
    core::GradientLedger ledger(1, [](core::Parameter&) {});
    MicroPass pass({rank, models, input, options, sums, core::Tape::WeightParts::Queued}, 0, 0, ledger);
    const auto with_gradient = [&] {
      std::int64_t count = 0;
      for (const core::Parameter* p : model.parameters())
        if (p->name.starts_with("layers.") && p->global_shape.rank() > 1 && p->slot->has_grad) ++count;
      return count;
    };
    pass.forward({});
    pass.backward({});
    EXPECT_EQ(with_gradient(), 0);
    pass.run_weight_parts();
    EXPECT_GT(with_gradient(), 6 * golden.config().num_layers);  // q, k, v, o, the router, gate, up and down
  });
}

// Those of the ranks' pieces, which layers of Mamba-2 alone ask for, the student's or its teacher's.
TEST(MicroPass, CutSequencesHaveRunsWhereModelsGoAlongThem) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    Rank rank(world.comm, "cp2", 1);
    const testing::GoldenModel golden("dense.h5");
    nn::ModelConfig mamba = golden.config();
    mamba.mamba = {.num_heads = 4, .head_width = 12, .state_width = 5, .attention_layers = {1}};
    nn::Transformer model(golden.config(), rank.sharded(core::DType::F64)),
        other(mamba, rank.sharded(core::DType::F64));
    const optim::LanguageModelling objective;
    const auto have_runs = [&](const StepModels& models) {
      const StepInput input = read_input(rank.memory(), rank, golden.samples(), 1, models);
      return input.batches.front().ring->runs.slots.defined();
    };
    EXPECT_FALSE(have_runs({model, nullptr, objective}));
    EXPECT_FALSE(have_runs({model, &model, objective}));
    EXPECT_TRUE(have_runs({model, &other, objective}));
    EXPECT_TRUE(have_runs({other, nullptr, objective}));
  });
}

TEST(MicroPass, WeightsAreMadeBesideTheSumsOfATensorGroupUnlessGapsAreForThem) {
  using enum core::Tape::WeightParts;
  using parallel::ScheduleKind;
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const auto usual = parallel::make_schedule(ScheduleKind::OneFOneB, 2, 1, 2),
               with_gaps = parallel::make_schedule(ScheduleKind::ZeroBubble, 2, 1, 2);
    const Rank tensors(world.comm, "tp2", 1), data(world.comm, "dp2", 1), experts(world.comm, "ep2", 1),
        of_a_queue(world.comm, "ep2", 1, false, core::Memory::hidden_cpu(1));
    EXPECT_EQ(weight_parts_of(tensors, usual, {}), InWaits);
    EXPECT_EQ(weight_parts_of(tensors, with_gaps, {}), Queued);
    EXPECT_EQ(weight_parts_of(data, usual, {}), AtOnce);
    EXPECT_EQ(weight_parts_of(data, usual, {.delay_weight_parts = true}), InWaits);
    EXPECT_EQ(weight_parts_of(experts, usual, {}), AtOnce);
    EXPECT_EQ(weight_parts_of(of_a_queue, usual, {}), InWaits);
  });
}

}  // namespace
}  // namespace limbeck::launch
